"""A published table as it is printed, with our rows in it where, and only where, they were made the same way."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.published import layouts
from analysis.published import numbers as published_numbers
from analysis.published.layouts import LaidColumn, Layout, Line
from analysis.published.numbers import COST, Number
from analysis.read.labels import printed
from analysis.read.runs import Source
from analysis.read.selection import Run, value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.ablation import AblationTable
from analysis.tables.record import Column, Content, Gain, Table
from ltsearch.store.records import (
    SHIFTED_TESTS,
    TEST,
    TEST_GMACS,
    TRAIN,
    TRAIN_GMACS,
    PlannedRow,
    PlanRecord,
    PublishedTable,
)

HOW_TO_READ = (
    "Published rows as printed, each with the recipe of its authors, which mostly is not printed. Our rows stand in a column "
    "only if data set, imbalance, backbone, epochs, augmentation, image size and training images are those of the numbers "
    "there, and so are method, parts, K, T, optimiser, schedule, images a step and classifier; otherwise a note says what "
    "differs. What a network costs depends on data set, backbone and image size only; test (G) of an ensemble of ours is that "
    "of all its experts."
)


def build(
    plan: PlanRecord, tables: Sequence[AblationTable], asked: PublishedTable, name: str, source: Source | None = None
) -> Table:
    """A published table. Without a ``source`` of what runs keep, ours have no accuracies under shifted test distributions.

    Raises ``UserError`` listing the published tables if this one does not exist.
    """
    numbers = published_numbers.table(asked.paper, asked.table)
    layout = layouts.load()[asked.paper, asked.table]
    lines, groups = _printed(layout, numbers)
    ours, notes = _ours(plan, tables, layout, numbers, _ShiftedTests(source))
    if ours:
        groups[len(lines)] = "ours"
    asides = [*notes, *_elsewhere(numbers)]
    notes = [*layout.notes, *_remarks(numbers)]
    head = [Column("row", layout.row_heading), Column("origin", "", shown=False)]
    head += [Column("ref", "Ref.")] if layout.ref else []
    head += [Column(f"part_{part}", part) for part in layout.parts]
    made = [
        Column(
            "/".join((*column.spanners, column.heading)),
            column.heading,
            _best(column, numbers),
            _format([n for n in numbers if layouts.selects(column.where, n)]),
            over=column.spanners,
        )
        for column in layout.columns
    ]
    caption = f"{layout.title}. Rows of {published_numbers.source(asked)}, as printed"
    return Table(name, caption, tuple(head + made), tuple(lines + ours), tuple(notes), groups, tuple(asides))


def _printed(layout: Layout, numbers: Sequence[Number]) -> tuple[list[tuple[Content, ...]], dict[int, str]]:
    """The printed rows, and headings of their groups by number of row."""
    lines: list[tuple[Content, ...]] = []
    groups: dict[int, str] = {}
    for group in layout.groups:
        groups[len(lines)] = group.heading
        for i, row in enumerate(group.rows):
            if isinstance(row, Line):
                heading, here = row.heading, [n for n in numbers if layouts.selects(row.where, n)]
            else:
                heading, here = _shown(*row), [n for n in numbers if (n.row, n.setting) == row]
            marks = group.marks[i] if group.marks else {}
            venues = [next(filter(None, map(layouts.venue, here)), None)] if layout.ref else []
            cells = [_cell(column, here) for column in layout.columns]
            lines.append((heading, "published", *venues, *(marks.get(part, False) for part in layout.parts), *cells))
    return lines, groups


def _cell(column: LaidColumn, here: Sequence[Number]) -> Content:
    """The number that stands there, with its gain."""
    value = next((n.value for n in here if layouts.selects(column.where, n)), None)
    if column.gain is None or value is None:
        return value
    gain = next((n.value for n in here if layouts.selects(column.gain, n)), None)
    return value if gain is None else Gain(value, gain)


def _shown(row: str, setting: str) -> str:
    return f"{row} [ensemble]" if setting == "ensemble" and "expert" not in row else row


def _format(numbers: Sequence[Number]) -> str:
    """As many digits as are printed."""
    return ".1f" if all(f"{n.value:.2f}".endswith("0") for n in numbers) else ".2f"


def _best(column: LaidColumn, numbers: Sequence[Number]) -> Any:
    metrics = {n.metric for n in numbers if layouts.selects(column.where, n)}
    return None if any(m.endswith(COST) or m == "difference" for m in metrics) else "max"


# -- ours --------------------------------------------------------------------------------------------------------------


def _ours(
    plan: PlanRecord,
    tables: Sequence[AblationTable],
    layout: Layout,
    numbers: Sequence[Number],
    shifted: _ShiftedTests,
) -> tuple[list[tuple[Content, ...]], list[str]]:
    """One line a method, over all settings; where rows are no methods, a line below each that ours has numbers for."""
    columns = [[n for n in numbers if layouts.selects(column.where, n)] for column in layout.columns]
    rows = {
        row.label: (row, next((t.selection.runs[row.name] for t in tables if _holds(t, row)), {})) for row in plan.rows
    }
    rows = {label: found for label, found in rows.items() if found[1]}
    lines: list[tuple[Content, ...]] = []
    placed: dict[str, set[str]] = {}  # metrics that a row has a place for
    if layout.by_method:
        for name in dict.fromkeys(row.name for row, _ in rows.values()):
            here = {label: found for label, found in rows.items() if found[0].name == name}
            lines += _line(name, here, columns, layout, placed, shifted)
    else:
        for line in (row for group in layout.groups for row in group.rows if isinstance(row, Line)):
            there = [[n for n in column if layouts.selects(line.where, n)] for column in columns]
            lines += _line(line.heading, rows, there, layout, placed, shifted)
    return lines, _left_out({label: row for label, (row, _) in rows.items()}, columns, placed)


def _line(
    name: str,
    rows: Mapping[str, tuple[PlannedRow, Mapping[int, Run]]],
    columns: Sequence[Sequence[Number]],
    layout: Layout,
    placed: dict[str, set[str]],
    shifted: _ShiftedTests,
) -> list[tuple[Content, ...]]:
    """What these rows have to say in every column; no line if that is nothing."""
    cells: list[Content] = []
    seeds: set[int] = set()
    marks: dict[str, bool | str] = {}  # of the printed row that it answers to
    for column in columns:
        found: Summary | None = None
        for label, (row, runs) in rows.items():
            fitting = [n for n in column if not published_numbers.deviations(n, row.config)]
            if found is not None or not fitting:
                continue
            nearest = next((n for n in fitting if n.setting == row.predict), fitting[0])
            if (found := _value(row, runs, nearest, shifted)) is not None:
                placed.setdefault(label, set()).add(nearest.metric)
                seeds.add(found.n)
                marks = marks or _marks(layout, nearest)
        # What a network costs does not spread over seeds.
        cells.append(found.mean if found is not None and column[0].metric.endswith(COST) else found)
    if not seeds:
        return []
    n = "–".join(map(str, sorted({min(seeds), max(seeds)})))
    venues: list[Content] = ["this work"] if layout.ref else []
    checks = [marks.get(part, False) for part in layout.parts]
    return [(f"{name} (n={n})", "ours", *venues, *checks, *cells)]


def _marks(layout: Layout, number: Number) -> dict[str, bool | str]:
    """The check marks of the row that a number is printed in."""
    for group in layout.groups:
        for row, marks in zip(group.rows, group.marks, strict=False):
            if row == (number.row, number.setting):
                return marks
    return {}


def _left_out(
    rows: Mapping[str, PlannedRow], columns: Sequence[Sequence[Number]], placed: Mapping[str, set[str]]
) -> list[str]:
    """Rows that have no place, or only one for their costs, and what keeps them from one: of all numbers, of the nearest."""
    told: dict[str, list[str]] = {}
    for label, row in rows.items():
        metrics = placed.get(label, set())
        if any(not metric.endswith(COST) for metric in metrics):
            continue
        candidates = [n for column in columns for n in column if not (metrics and n.metric.endswith(COST))]
        differing = [(differs, n) for n in candidates if (differs := published_numbers.deviations(n, row.config))]
        if differing:
            where = "Ours here with costs only" if metrics else "Ours not in this table"
            why = ", ".join(min(differing, key=_far)[0])
            told.setdefault(f"{where}: {{}}: {why}.", []).append(f"“{label}”")
    return [text.format(", ".join(names)) for text, names in told.items()]


def _far(found: tuple[list[str], Number]) -> tuple[int, bool]:
    """How far a number is from ours; one that prints its epochs says more about the difference than one that does not."""
    return len(found[0]), found[1].epochs is None


def _holds(table: AblationTable, row: PlannedRow) -> bool:
    return table.setting == row.setting and bool(table.selection.runs.get(row.name))


def _value(row: PlannedRow, runs: Mapping[int, Run], number: Number, shifted: _ShiftedTests) -> Summary | None:
    if number.split in SHIFTED_TESTS:
        return summarize(shifted.accuracies(row, runs, number.split))
    metric = {
        "top1": f"{TEST}{row.predict}_{'top1' if number.split == 'all' else number.split}",
        "top5": f"{TEST}{row.predict}_top5",
        "train_top1": f"{TRAIN}top1",
        "train_gflops": TRAIN_GMACS,
        "test_gflops": TRAIN_GMACS if row.predict == "ensemble" else TEST_GMACS,  # both are K times one expert's
    }.get(number.metric, "")
    scale = 1.0 if number.metric.endswith(COST) else 100.0
    return summarize({seed: scale * v for seed, run in runs.items() if (v := value(run, metric)) is not None})


class _ShiftedTests:
    """Accuracies on shifted test sets, which runs keep; each is looked at once. “Prior compensated” is another table's."""

    def __init__(self, source: Source | None) -> None:
        self.source = source
        self.read: dict[tuple[str, str], list[float]] = {}

    def accuracies(self, row: PlannedRow, runs: Mapping[int, Run], split: str) -> dict[int, float]:
        """In percent, by seed."""
        at = SHIFTED_TESTS.index(split)
        found = {seed: self._of(str(run["cell"]), f"shifted_{row.predict}") for seed, run in runs.items()}
        return {seed: 100 * values[at] for seed, values in found.items() if values and math.isfinite(values[at])}

    def _of(self, cell: str, name: str) -> list[float]:
        if (cell, name) not in self.read:
            kept = self.source.final(cell) if self.source is not None else None
            self.read[cell, name] = [float(v) for v in kept[name][0]] if kept is not None and name in kept else []
        return self.read[cell, name]


# -- notes -------------------------------------------------------------------------------------------------------------


def _elsewhere(numbers: Sequence[Number]) -> list[str]:
    """What other papers print for the same thing, where it is another number."""
    found = []
    for n in numbers:
        others = [o for o in published_numbers.elsewhere(n) if abs(o.value - n.value) >= 0.1]
        if others and not n.epochs:  # the paper's own rows have a recipe of their own
            told = ", ".join(f"{o.value:g} in {o.source}" for o in others)
            where = " ".join(
                filter(
                    None,
                    (printed(n.dataset), "" if n.imbalance == "natural" else f"IF {n.imbalance}", printed(n.backbone)),
                )
            )
            found.append(f"{n.row}, {where}: {n.value:g} here, {told}.")
    return list(dict.fromkeys(found))


# A number's source and its venue, and that it is an ensemble's: the table shows them.
_CITATION = re.compile(r"as printed by .*|[A-Za-z]+'\d\d|ensemble")
_CONTINUES = "released code"  # what the text says and what the code does are one remark
_FEW = 3  # numbers of a row that are named


def _remarks(numbers: Sequence[Number]) -> list[str]:
    """Recipes, rules of selection and contradictions: what notes say of the same numbers makes one sentence."""
    bearers: dict[str, list[Number]] = {}
    for n in numbers:
        for part in _parts(n.note):
            bearers.setdefault(part, []).append(n)
    sentences: dict[tuple[Number, ...], list[str]] = {}
    for part, found in bearers.items():
        sentences.setdefault(tuple(found), []).append(part)
    return [f"{_subject(found, numbers)}: {'; '.join(parts).rstrip('.')}." for found, parts in sentences.items()]


def _parts(note: str) -> list[str]:
    parts: list[str] = []
    for part in note.split("; "):
        if parts and part.startswith(_CONTINUES):
            parts[-1] += f"; {part}"
        elif part and not _CITATION.fullmatch(part):
            parts.append(part)
    return parts


def _subject(found: Sequence[Number], numbers: Sequence[Number]) -> str:
    """The rows as they are shown; where few of a row's numbers are meant, with them."""
    names = []
    for row, setting in dict.fromkeys((n.row, n.setting) for n in found):
        meant = [n.value for n in found if (n.row, n.setting) == (row, setting)]
        some = len(meant) < sum((n.row, n.setting) == (row, setting) for n in numbers) and len(meant) <= _FEW
        values = ", ".join(dict.fromkeys(f"{value:g}" for value in meant))
        names.append(_shown(row, setting) + (f" ({values})" if some else ""))
    return ", ".join(names)
