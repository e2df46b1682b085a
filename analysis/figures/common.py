"""What the kinds of figures share: which rows and predictions are drawn, and texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from matplotlib.figure import Figure

from analysis.figures import style
from analysis.read.selection import value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.ablation import percent
from analysis.tables.context import Context
from ltsearch.store.records import TEST, FigureRequest, PlannedRow, headline

Data = TypeVar("Data")
Csv = tuple[list[str], list[list[object]]]  # header, rows

ACCURACY = "top-1 accuracy (%)"
SPLITS = {"all": "all classes", "many": "many-shot", "medium": "medium-shot", "few": "few-shot"}
SPLITS |= {"largest_class": "largest class", "smallest_class": "smallest class"}
_ENDS = {"largest_class": np.argmax, "smallest_class": np.argmin}  # of the training images of classes
PREDICT = {"single": "single expert", "ensemble": "ensemble"}
# Of predictions, where methods do not need the colours.
PREDICT_LOOKS = {"single": style.Look(style.BLACK, "o", "-"), "ensemble": style.Look(style.PURPLE, "D", (0, (5, 1.5)))}


@dataclass(frozen=True)
class Kind(Generic[Data]):
    """A kind of figure: what it shows, as data, and the three things that are made of the data.

    ``build`` is None where there is nothing to draw; ``render`` is called inside ``style.style()``; ``table`` has every number
    that is drawn; ``describe`` is the text for someone who cannot see the figure.
    """

    build: Callable[[Context, FigureRequest], Data | None]
    render: Callable[[Data], Figure]
    table: Callable[[Data], Csv]
    describe: Callable[[Data], str]
    caption: str


def metric(predict: str, split: str) -> str:
    """Name of a test accuracy."""
    if split == "all":
        return headline(predict)
    return f"{TEST}{predict}_{split}"


def accuracy_of(context: Context, row: PlannedRow, predict: str, split: str) -> Summary | None:
    """Percent over seeds; None without a run that has it."""
    if split not in _ENDS:
        return summarize(percent(context.runs(row), metric(predict, split)))
    found = [(r.per_class.get(f"{TEST}{predict}"), r.class_counts) for r in context.records(row).values()]
    ends = [values[int(_ENDS[split](counts))] for values, counts in found if values and counts]
    return summarize([100 * v for v in ends if v is not None])


def distinct(rows: Iterable[PlannedRow]) -> list[PlannedRow]:
    """Rows that are not the same trials as one before, under another name (“NCL++” and “NCL++ (ensemble)”)."""
    found: dict[tuple[str, ...], PlannedRow] = {}
    for row in rows:
        found.setdefault((row.setting, *(cell.cell for cell in row.cells)), row)
    return list(found.values())


def of_one_setting(context: Context, request: FigureRequest) -> list[PlannedRow]:
    """Rows of the setting that is asked for, else of the first."""
    settings = context.settings()
    setting = request.setting if request.setting is not None else settings[0] if settings else ""
    return distinct(context.rows(request.rows, setting))


def titles(context: Context) -> dict[str, str]:
    """What every row of the study is called in figures, by its name.

    Figures say themselves which prediction they show, so “(ensemble)” is dropped, unless that is the name of other trials.
    """
    cells: dict[str, set[str]] = {}
    for row in context.plan.rows:
        cells.setdefault(row.name, set()).update(planned.cell for planned in row.cells)
    short = {name: name.removesuffix(" (ensemble)") for name in cells}
    return {name: title if cells.get(title, cells[name]) == cells[name] else name for name, title in short.items()}


def palette(context: Context) -> tuple[str, ...]:
    """Titles of all rows of the study, which keep a row's colour the same in every figure."""
    return tuple(dict.fromkeys(titles(context).values()))


def predictions(context: Context, rows: Sequence[PlannedRow], asked: Sequence[str]) -> list[str]:
    """What is asked for; if all rows have one expert, whose ensemble is itself, only the first."""
    several = list(dict.fromkeys(asked))
    for row in rows:
        for run in context.runs(row).values():
            if len({value(run, metric(predict, "all")) for predict in several}) > 1:
                return several
    return several[:1]


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def seeds(counts: Iterable[int]) -> str:
    """``3 seeds``, ``1 seed`` or ``2 to 3 seeds``."""
    found = sorted(set(counts))
    if len(found) > 1:
        return f"{found[0]} to {found[-1]} seeds"
    return f"{found[0]} seed{'s' if found[0] != 1 else ''}"


def omitted(left_out: Sequence[str], why: str) -> str:
    """A sentence about rows that are not drawn; empty if there are none."""
    return f" Not drawn, {why}: {listed(left_out)}." if left_out else ""
