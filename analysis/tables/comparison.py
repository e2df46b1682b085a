"""A published table as it is printed, with our rows in it where, and only where, they were made the same way."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.published import numbers as published_numbers
from analysis.published.numbers import COST, PAPERS, Number
from analysis.read.selection import Run, value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.ablation import AblationTable
from analysis.tables.record import Column, Content, Table
from ltsearch.records import TEST, TEST_GMACS, TRAIN, TRAIN_GMACS, PlannedRow, PlanRecord, PublishedTable

HOW_TO_READ = (
    "Published rows as printed, each with the recipe of its authors, which mostly is not printed. Our rows stand in a column "
    "only if data set, imbalance, backbone, epochs, augmentation, image size and training images are those of the numbers "
    "there, and so are method, parts, K, T, optimiser, schedule, images a step and classifier; otherwise a note says what "
    "differs. What a network costs depends on data set, backbone and image size only; test (G) of an ensemble of ours is that "
    "of all its experts."
)
_METRICS = {"top1": "top-1", "top5": "top-5", "train_top1": "train top-1", "difference": "difference to the baseline"}
_METRICS |= {"train_gflops": "train (G)", "test_gflops": "test (G)"}
Key = tuple[str, ...]


@dataclass(frozen=True)
class Printed:
    """One column of the printed table: what its numbers share, and how that is called."""

    key: Key
    heading: str
    metric: str
    split: str
    numbers: tuple[Number, ...]


def build(plan: PlanRecord, tables: Sequence[AblationTable], asked: PublishedTable, name: str) -> Table:
    """Raises ``UserError`` listing the published tables if this one does not exist."""
    numbers = published_numbers.table(asked.paper, asked.table)
    columns = _columns(numbers)
    labels = list(dict.fromkeys((n.row, n.setting) for n in numbers))
    rows: list[tuple[Content, ...]] = []
    for row, setting in labels:
        found = {c.key: n.value for c in columns for n in c.numbers if (n.row, n.setting) == (row, setting)}
        rows.append((_shown(row, setting), "published", *(found.get(c.key) for c in columns)))
    ours, notes = _ours(plan, tables, columns)
    notes = [*notes, *_elsewhere(numbers), *_remarks(numbers)]
    head = [Column("row", ""), Column("origin", "")]
    made = [Column("/".join(c.key) or "value", c.heading, _best(c.metric), _format(c)) for c in columns]
    caption = f"{PAPERS.get(asked.paper, asked.paper)}, Table {asked.table}"
    return Table(name, caption, tuple(head + made), tuple(rows + ours), tuple(notes))


def _shown(row: str, setting: str) -> str:
    return f"{row} [ensemble]" if setting == "ensemble" and "expert" not in row else row


def _format(column: Printed) -> str:
    """As many digits as are printed."""
    return ".1f" if all(f"{n.value:.2f}".endswith("0") for n in column.numbers) else ".2f"


def _best(metric: str) -> Any:
    return None if metric.endswith(COST) or metric == "difference" else "max"


def _columns(numbers: Sequence[Number]) -> list[Printed]:
    """What varies between a row's numbers makes the columns: data set, imbalance, backbone, augmentation, metric, split."""
    parts = {
        n: {
            "dataset": n.dataset,
            "imbalance": n.imbalance,
            "backbone": n.backbone,
            "metric": n.metric,
            "split": n.split,
            "epochs": str(n.epochs or ""),
            "augmentation": n.augmentation[0] if n.augmentation else "",
        }
        for n in numbers
    }
    keys = [
        k for k in ("dataset", "imbalance", "backbone", "metric", "split") if len({p[k] for p in parts.values()}) > 1
    ]
    # Epochs and augmentation only where a row has several numbers otherwise: rows of other authors do not print them.
    for more in ([], ["epochs"], ["augmentation"], ["epochs", "augmentation"]):
        if len({(n.row, n.setting, *(parts[n][k] for k in [*keys, *more])) for n in numbers}) == len(numbers):
            keys += more
            break
    grouped: dict[Key, list[Number]] = {}
    for n in numbers:
        grouped.setdefault(tuple(parts[n][k] for k in keys), []).append(n)
    return [
        Printed(key, _heading(keys, found[0]), found[0].metric, found[0].split, tuple(found))
        for key, found in grouped.items()
    ]


def _heading(keys: Sequence[str], n: Number) -> str:
    texts = {
        "dataset": n.dataset,
        "imbalance": "" if n.imbalance == "natural" else f"IF {n.imbalance}",
        "backbone": n.backbone,
        "metric": _METRICS.get(n.metric, n.metric),
        "split": "" if "metric" in keys and n.metric != "top1" else n.split,
        "epochs": f"{n.epochs} epochs" if n.epochs else "epochs not printed",
        "augmentation": n.augmentation[0] if n.augmentation else "augmentation not printed",
    }
    return " ".join(texts[k] for k in keys if texts[k]) or _METRICS.get(n.metric, n.metric)


# -- ours --------------------------------------------------------------------------------------------------------------


def _ours(
    plan: PlanRecord, tables: Sequence[AblationTable], columns: Sequence[Printed]
) -> tuple[list[tuple[Content, ...]], list[str]]:
    rows: list[tuple[Content, ...]] = []
    left_out: dict[str, list[str]] = {}  # rows, by what is said of them
    for row in plan.rows:
        runs = next((t.selection.runs[row.name] for t in tables if _holds(t, row)), {})
        if not runs:
            continue
        cells: dict[Key, Summary | None] = {}
        differing: list[tuple[list[str], Number]] = []  # of a column's numbers the nearest, where ours may not stand
        for column in columns:
            differs, number = min(((published_numbers.deviations(n, row.config), n) for n in column.numbers), key=_far)
            if differs:
                differing.append((differs, number))
            else:
                cells[column.key] = _value(row, runs, column)
        placed = [column for column in columns if cells.get(column.key) is not None]
        if placed:
            rows.append((row.label, f"ours, n={len(runs)}", *(cells.get(column.key) for column in columns)))
        if differing and all(column.metric.endswith(COST) for column in placed):
            where = "Ours here with costs only" if placed else "Ours not in this table"
            others = [found for found in differing if not (placed and found[1].metric.endswith(COST))]
            why = ", ".join(min(others or differing, key=_far)[0])
            left_out.setdefault(f"{where}: {{}}: {why}.", []).append(f"“{row.label}”")
    return rows, [text.format(", ".join(names)) for text, names in left_out.items()]


def _far(found: tuple[list[str], Number]) -> tuple[int, bool]:
    """How far a number is from ours; one that prints its epochs says more about the difference than one that does not."""
    return len(found[0]), found[1].epochs is None


def _holds(table: AblationTable, row: PlannedRow) -> bool:
    return table.setting == row.setting and bool(table.selection.runs.get(row.name))


def _value(row: PlannedRow, runs: Mapping[int, Run], column: Printed) -> Summary | None:
    metric = {
        "top1": f"{TEST}{row.predict}_{'top1' if column.split == 'all' else column.split}",
        "top5": f"{TEST}{row.predict}_top5",
        "train_top1": f"{TRAIN}top1",
        "train_gflops": TRAIN_GMACS,
        "test_gflops": TRAIN_GMACS if row.predict == "ensemble" else TEST_GMACS,  # both are K times one expert's
    }.get(column.metric, "")
    scale = 1.0 if column.metric.endswith(COST) else 100.0
    return summarize([scale * v for run in runs.values() if (v := value(run, metric)) is not None])


# -- notes -------------------------------------------------------------------------------------------------------------


def _elsewhere(numbers: Sequence[Number]) -> list[str]:
    """What other papers print for the same thing, where it is another number."""
    found = []
    for n in numbers:
        others = [o for o in published_numbers.elsewhere(n) if abs(o.value - n.value) >= 0.1]
        if others and not n.epochs:  # the paper's own rows have a recipe of their own
            told = ", ".join(f"{o.value:g} in {PAPERS.get(o.paper, o.paper)}, Table {o.table}" for o in others)
            where = _heading(("dataset", "imbalance", "backbone"), n)
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
