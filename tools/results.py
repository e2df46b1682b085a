"""``python -m tools.results``: the numbers in the sentences of ``docs/results``, from the tables beside them.

A number is a link to the table that it comes from, and the link's title says where it stands there, as row and column, or as
the difference of two rows: ``[7.3](study/ablation.csv "BSCE − CE · accuracy")``. It is rounded as it is written. A test holds
that nothing has to be filled in, and that no number with decimals, in points or per cent stands there without its link.

Between ``<!-- begin claims -->`` and ``<!-- end claims -->`` stand the claims of all studies below, with their trials' hours.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
LINK = re.compile(r'\[([+−-]?[\d.]+)\]\(([^)\s]+\.csv) "([^"]+) · ([^"]+)"\)')
CLAIMS = re.compile(r"(<!-- begin claims -->)(.*?)(<!-- end claims -->)", re.DOTALL)
MEASURED = re.compile(r"\d+\.\d+|\d+ ?(?:percentage )?(?:points|%|per ?cent)")


def pages() -> list[Path]:
    """The pages that people wrote."""
    return sorted(RESULTS.rglob("README.md"))


def fill(page: Path) -> str:
    """The text of a page with the numbers of its tables.

    Raises:
        ValueError: a table, row or column does not exist.

    """
    text = LINK.sub(lambda link: _filled(page, link), page.read_text(encoding="utf-8"))
    return CLAIMS.sub(lambda block: f"{block[1]}\n{claims(page.parent)}\n{block[3]}", text)


def claims(folder: Path) -> str:
    """Of every study below that has a verdict: the claim, the paper's difference, ours, whether it holds, all rows' hours."""
    lines = ["| claim | paper | here | verdict | seeds | hours | study |", "|---|---|---|---|--:|--:|---|"]
    for file in sorted(folder.rglob("verdict.csv")):
        study = file.parent.relative_to(folder)
        cost = pd.read_csv(file.parent / "costs.csv")
        timed = "seconds" in cost and bool(cost["seconds"].notna().all())
        hours = f"{(cost['seconds'] * cost['n']).sum() / 3600:.1f}" if timed else "–"
        found = pd.read_csv(file).astype(object).fillna("").to_dict("records")
        several = "setting" in found[0] and len({one["setting"] for one in found}) > 1
        for one in found:
            ours = _points(one["difference"])
            ours += f" [{_points(one['low'])}, {_points(one['high'])}]" if one["low"] != "" else ""
            row = [
                (f"{one['row']} ({one['setting']})" if several else one["row"]).replace("|", "\\|"),
                _points(one["paper"]),
                ours,
                one["verdict"],
                "–" if one["seeds"] == "" else f"{one['seeds']:.0f}",
                hours,
            ]
            lines.append(f"| {' | '.join(row)} | [{study}]({study}/report.md) |")
    return "\n".join(lines)


def _points(value: float | str) -> str:
    return "–" if value == "" else f"{float(value):+.2f}".replace("-", "−")


def unlinked(text: str) -> list[str]:
    """Measured numbers outside links and code: with decimals, in points or per cent."""
    for known in (
        LINK,
        CLAIMS,
        re.compile(r"```.*?```", re.DOTALL),
        re.compile(r"`[^`]*`"),
        re.compile(r"\]\([^)]*\)"),
    ):
        text = known.sub("", text)
    return MEASURED.findall(text)


def _filled(page: Path, link: re.Match[str]) -> str:
    written, file, rows, column = link.groups()
    values = [_value(page.parent / file, row, column) for row in rows.split(" − ")]
    value = values[0] - sum(values[1:])
    decimals = len(written.partition(".")[2])
    sign = "+" if written.startswith("+") and value >= 0 else ""
    shown = f"{sign}{value:.{decimals}f}".replace("-", "−")
    return f'[{shown}]({file} "{rows} · {column}")'


def _value(file: Path, row: str, column: str) -> float:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such table")
    table = pd.read_csv(file)
    found = table[[row in name.split(" / ") for name in table["row"]]]  # rows that share a trial stand together
    if len(found) != 1 or column not in table.columns:
        raise ValueError(f"{file}: not one row {row!r}, or no column {column!r}")
    return float(found[column].iloc[0])


def main() -> int:
    """Write the pages."""
    for page in pages():
        page.write_text(fill(page), encoding="utf-8")
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
