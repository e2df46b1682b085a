"""What changed between two sweeps, or between one sweep at two commits: row by row, and cell by cell in a CSV.

Rows are matched by setting and name, cells by seed. A cell's id hashes everything that decides its numbers, so that cells of
one id are the same experiment: if they disagree, something outside the configuration did it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from analysis import markdown
from analysis.read import labels
from analysis.read.runs import PARAM, SweepRuns, flat
from analysis.read.selection import Run, by_cell, value, why_missing
from analysis.statistics.contrasts import Group, simultaneous
from analysis.statistics.seeds import Difference, summarize
from analysis.tables.record import Column, Table, to_markdown
from ltsearch.store.records import PlannedRow, headline

_SHOWN = 6  # changed keys that a table names
_EQUAL = 1e-9


@dataclass(frozen=True)
class Cell:
    """One seed of a row in both sweeps, in percent; ``changed``: what of the configuration, of data or of a recipe."""

    seed: int
    a: float | None
    b: float | None
    says: str
    changed: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row in both sweeps; ``difference``: B minus A in points, None without both or of cells that are the same."""

    label: str
    cells: tuple[Cell, ...]
    difference: Difference | None


@dataclass(frozen=True)
class Comparison:
    """All rows, those of A first, and what the sweeps were run with, where that differs: key, A's, B's."""

    a: str
    b: str
    rows: tuple[Row, ...]
    ran: tuple[tuple[str, str, str], ...]
    notes: tuple[str, ...]


def build(a: SweepRuns, b: SweepRuns, names: tuple[str, str]) -> Comparison:
    """Compare two sweeps, which may be of different studies."""
    rows_a, rows_b = ({row.label: row for row in runs.plan.rows} for runs in (a, b))
    cells_a, cells_b = by_cell(a.frame), by_cell(b.frame)
    compared = {label: _cells(rows_a.get(label), rows_b.get(label), cells_a, cells_b) for label in {**rows_a, **rows_b}}
    differences = _differences(compared)
    rows = tuple(Row(label, cells, differences.get(label)) for label, cells in compared.items())
    keys = sorted({*a.plan.provenance, *b.plan.provenance})
    ran = [(key, a.plan.provenance.get(key, ""), b.plan.provenance.get(key, "")) for key in keys]
    return Comparison(*names, rows, tuple(line for line in ran if line[1] != line[2]), (*a.notes, *b.notes))


def _cells(
    a: PlannedRow | None, b: PlannedRow | None, cells_a: Mapping[str, Run], cells_b: Mapping[str, Run]
) -> tuple[Cell, ...]:
    by_seed = [{cell.seed: cell.cell for cell in row.cells} if row is not None else {} for row in (a, b)]
    found = []
    for seed in sorted({*by_seed[0], *by_seed[1]}):
        ids = by_seed[0].get(seed), by_seed[1].get(seed)
        runs = cells_a.get(ids[0] or ""), cells_b.get(ids[1] or "")
        values = _value(a, runs[0]), _value(b, runs[1])
        says = "changed"
        if ids[0] is None or ids[1] is None:
            says = "only in A" if ids[1] is None else "only in B"
        elif ids[0] == ids[1]:
            both = values[0] is not None and values[1] is not None
            same = both and abs((values[0] or 0.0) - (values[1] or 0.0)) <= _EQUAL
            says = "the same" if same else "the same cell, other numbers" if both else "the same cell"
        for name, row, run, cell in (("A", a, runs[0], ids[0]), ("B", b, runs[1], ids[1])):
            if row is not None and cell is not None and (why := why_missing(run, headline(row.predict))) is not None:
                says += f"; in {name} it {why}"
        changed = _changed(a, b, *runs) if says.startswith("changed") else ()
        found.append(Cell(seed, *values, says, changed))
    return tuple(found)


def _value(row: PlannedRow | None, run: Run | None) -> float | None:
    if row is None or run is None or why_missing(run, headline(row.predict)) is not None:
        return None
    found = value(run, headline(row.predict))
    return None if found is None else 100.0 * found


def _changed(a: PlannedRow | None, b: PlannedRow | None, run_a: Run | None, run_b: Run | None) -> tuple[str, ...]:
    """``training.epochs 60 → 200``, ``recipe augmentation 3 → 4``."""
    sides = [_settings(row, run) for row, run in ((a, run_a), (b, run_b))]
    keys = [key for key in {**sides[0], **sides[1]} if sides[0].get(key) != sides[1].get(key)]
    return tuple(f"{key} {_said(sides[0].get(key))} → {_said(sides[1].get(key))}" for key in sorted(keys))


def _settings(row: PlannedRow | None, run: Run | None) -> dict[str, Hashable]:
    """Configuration and recipes of the run; before it ran, the row's configuration."""
    if run is not None:
        found: dict[str, Hashable] = {
            key.removeprefix(PARAM): text
            for key, text in run.items()
            if key.startswith(PARAM) and isinstance(text, str)
        }
        found |= {f"recipe {name}": version for name, version in run["recipes"].items()}
        return found | {"data fingerprint": str(run["fingerprint"])[:12]}
    return {key: str(text) for key, text in flat(row.config if row is not None else {})}


def _said(found: Hashable) -> str:
    return "–" if found is None else labels.text(found)


def _differences(compared: Mapping[str, tuple[Cell, ...]]) -> dict[str, Difference]:
    """Of rows that are not the same cells, judged together."""
    sides = {
        label: (tuple(c.a for c in cells if c.a is not None), tuple(c.b for c in cells if c.b is not None))
        for label, cells in compared.items()
        if any(cell.says.startswith(("changed", "the same cell, other")) for cell in cells)
    }
    sides = {label: pair for label, pair in sides.items() if all(pair)}
    if not sides:
        return {}
    groups = [Group(values) for pair in sides.values() for values in pair]
    contrasts = [
        [-1.0 if at == 2 * i else 1.0 if at == 2 * i + 1 else 0.0 for at in range(len(groups))]
        for i in range(len(sides))
    ]
    return dict(zip(sides, simultaneous(groups, contrasts).differences, strict=True))


# -- texts -------------------------------------------------------------------------------------------------------------


def render(found: Comparison) -> str:
    """Markdown: the rows, and what the sweeps were run with."""
    count: dict[str, int] = {}
    for row in found.rows:
        for cell in row.cells:
            said = cell.says.partition(";")[0]
            count[said] = count.get(said, 0) + 1
    lines = [
        f"# {found.b} against {found.a}",
        "",
        f"A: {found.a}. B: {found.b}. Accuracy in percent, differences B − A in points.",
    ]
    lines += ["", "Cells: " + ", ".join(f"{n} {said}" for said, n in count.items()) + "."]
    lines += ["", to_markdown(to_table(found))]
    if found.ran:
        lines += ["", "## What they were run with", "", *markdown.table(["", "A", "B"], found.ran, left=3)]
    return "\n".join([*lines, "", *markdown.listed(found.notes)]).rstrip() + "\n"


def to_table(found: Comparison) -> Table:
    """A row a row."""
    columns = [Column("row", "row"), Column("a", "A"), Column("b", "B"), Column("difference", "B − A")]
    lines = []
    for row in found.rows:
        a, b = ({c.seed: v for c in row.cells if (v := (c.a, c.b)[side]) is not None} for side in (0, 1))
        lines.append((row.label, summarize(a), summarize(b), row.difference, _what(row)))
    return Table("compare", f"{found.b} against {found.a}", (*columns, Column("changed", "what changed")), tuple(lines))


def _what(row: Row) -> str:
    """What the row's cells say, each once, with how many seeds do where not all do."""
    texts: dict[str, int] = {}
    for cell in row.cells:
        keys = [key for key in cell.changed if not key.startswith("seed ")]
        more = f", and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        text = cell.says if not keys else cell.says.replace("changed", ", ".join(keys[:_SHOWN]) + more, 1)
        texts[text] = texts.get(text, 0) + 1
    return "; ".join(
        text if n == len(row.cells) else f"{text} ({n} of {len(row.cells)} seeds)" for text, n in texts.items()
    )


def to_csv(found: Comparison) -> str:
    """A line a cell, with everything that changed."""
    header = ["row", "seed", "a", "b", "says", "changed"]
    return markdown.csv_text(
        header, [[row.label, c.seed, c.a, c.b, c.says, "; ".join(c.changed)] for row in found.rows for c in row.cells]
    )
