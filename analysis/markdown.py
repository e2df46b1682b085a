"""Tables as text: Markdown's pipe tables, CSV, and numbers as they are printed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from analysis.statistics.seeds import ALPHA, Difference, Summary

ABSENT = "–"


def escape(text: str) -> str:
    """One line that cannot break out of a table's cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, *, escaped: bool = False) -> list[str]:
    """Lines of a pipe table; the first ``left`` columns are aligned left, the others right. Cells are escaped here."""
    cells = [[cell if escaped else escape(cell) for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = ("-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths))
    return [line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])]


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Make a CSV file's text. None is empty; floats have 10 digits, so that the last bit never shows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return buffer.getvalue()


def _plain(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else value


def signed(value: float) -> str:
    """``+1.20`` or ``−1.20``."""
    return f"{value:+.2f}".replace("-", "−")


def mean_std(summary: Summary | None, spec: str = ".2f") -> str:
    """``50.60 ± 0.31``; no spread for one value; a dash for none; ``(n=2/3)`` if some are known to be missing."""
    if summary is None:
        return ABSENT
    text = format(summary.mean, spec) + (f" ± {format(summary.std, spec)}" if summary.std is not None else "")
    return text if summary.planned is None else f"{text} (n={summary.n}/{summary.planned})"


def difference(value: Difference | None) -> str:
    """``+5.81 [+4.90, +6.72], p = 0.012 *``, with ``n.s.`` or ``not tested`` where nothing is claimed."""
    if value is None:
        return ABSENT
    text = signed(value.mean)
    if value.interval is not None:
        text += f" [{signed(value.interval[0])}, {signed(value.interval[1])}]"
    if value.p is None:
        return f"{text} (n={value.n}, not tested)"
    return f"{text}, {p_value(value.p)} {'*' if value.significant else 'n.s.'}"


def p_value(p: float) -> str:
    """``p = 0.012`` or ``p < 0.001``: two digits, more where they would put it on the other side of 0.05."""
    if p < 0.001:
        return "p < 0.001"
    rounded = (f"{p:.{digits}g}" for digits in range(2, 18))
    return f"p = {next(text for text in rounded if (float(text) < ALPHA) == (p < ALPHA))}"


def number(value: float | None, spec: str) -> str:
    """Format a number, a dash for None."""
    return ABSENT if value is None else format(value, spec)


def listed(items: Sequence[str]) -> list[str]:
    """Lines of a bulleted list, each item on one line."""
    return [f"- {' '.join(item.split()).replace('<', '&lt;')}" for item in items]
