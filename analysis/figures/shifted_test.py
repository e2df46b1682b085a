"""Accuracy under shifted test distributions, with and without prior compensation: Table 8 of DiVE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.common import ACCURACY, PREDICT, Csv, listed, of_one_setting, palette, predictions, seeds, titles
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.context import Context
from analysis.tables.record import Column, Table
from ltsearch.store.records import SHIFTED_FORMS, SHIFTED_TESTS, FigureRequest

CAPTION = "Accuracy under shifted test distributions"
_LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)))
_SHOWN = ("", ", prior compensated")


@dataclass(frozen=True)
class Line:
    """One row: accuracies in percent, by distribution."""

    row: str
    predict: str
    form: str  # plain or compensated
    accuracy: tuple[Summary | None, ...]


@dataclass(frozen=True)
class ShiftedTest:
    """Rows in order, each plain and compensated."""

    lines: tuple[Line, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> ShiftedTest | None:
    """Mean and spread over seeds; None if no run has kept these accuracies."""
    rows = of_one_setting(context, request)
    called = titles(context)
    lines = []
    for row in rows:
        for predict in predictions(context, rows, request.predict):
            found = [a[f"shifted_{predict}"] for _, a in context.finals(row) if f"shifted_{predict}" in a]
            for at, form in enumerate(SHIFTED_FORMS if found else ()):
                accuracy = _summaries([values[at] for values in found])
                if any(accuracy):
                    lines.append(Line(called[row.name], predict, form, accuracy))
    return ShiftedTest(tuple(lines), palette(context)) if lines else None


def _summaries(found: Iterable[NDArray[Any]]) -> tuple[Summary | None, ...]:
    """Of ``[S]`` a seed."""
    return tuple(summarize([100 * float(v) for v in values if np.isfinite(v)]) for values in np.stack(list(found), -1))


def render(data: ShiftedTest) -> Figure:
    """A panel a prediction: solid as it predicts, dashed with the test set's shares."""
    predict = list(dict.fromkeys(line.predict for line in data.lines))
    names = list(dict.fromkeys(line.row for line in data.lines))
    looks = style.looks(names, data.palette)
    figure = style.figure(style.WIDTH, 2.6 * len(predict) + 0.9 + 0.18 * len(names) / 2)
    grid = figure.subplots(len(predict), 1, squeeze=False, sharex=True)[:, 0]
    handles: dict[str, Any] = {}
    for axes, wanted in zip(grid, predict, strict=True):
        for line in (line for line in data.lines if line.predict == wanted):
            look = looks[line.row]
            mean = [s.mean if s is not None else np.nan for s in line.accuracy]
            spread = [(s.std or 0.0) if s is not None else np.nan for s in line.accuracy]
            drawn = axes.errorbar(
                range(len(mean)),
                mean,
                yerr=spread,
                color=look.colour,
                marker=look.marker,
                linestyle=_LINES[SHIFTED_FORMS.index(line.form)],
                markerfacecolor=look.colour if line.form == SHIFTED_FORMS[0] else "white",
                elinewidth=1.0,
            )
            handles.setdefault(line.row, drawn)
        axes.set_ylabel(f"{ACCURACY}\n{PREDICT[wanted]}")
    grid[-1].set_xticks(range(len(SHIFTED_TESTS)), SHIFTED_TESTS, rotation=40, ha="right")
    forms = [Line2D([], [], color=style.BLACK, linestyle=line) for line in _LINES]
    style.legend(figure, [*handles.values(), *forms], [*handles, "as predicted", "prior compensated"])
    return figure


def table(data: ShiftedTest) -> Csv:
    """One line for every row, prediction, form and distribution. Accuracies in percent."""
    rows: list[list[object]] = []
    for line in data.lines:
        for name, s in zip(SHIFTED_TESTS, line.accuracy, strict=True):
            rows.append([line.row, line.predict, line.form, name, *((s.mean, s.std, s.n) if s else (None, None, 0))])
    return ["row", "predict", "form", "distribution", "accuracy", "std", "seeds"], rows


def to_table(data: ShiftedTest, name: str, caption: str) -> Table:
    """As Table 8 is printed: a line a row, a column a distribution. One expert, its own ensemble, has one line."""
    single = {(line.row, line.form): line.accuracy for line in data.lines if line.predict == "single"}
    lines = [
        line for line in data.lines if line.predict == "single" or line.accuracy != single.get((line.row, line.form))
    ]
    several = len({line.predict for line in data.lines}) > 1
    columns = (Column("row", ""), *(Column(d.replace(" ", "_"), d, best="max") for d in SHIFTED_TESTS))
    rows = tuple(
        (
            line.row + _SHOWN[SHIFTED_FORMS.index(line.form)] + (f" ({PREDICT[line.predict]})" if several else ""),
            *line.accuracy,
        )
        for line in lines
    )
    return Table(name, caption, columns, rows)


def describe(data: ShiftedTest) -> str:
    """First, middle and last of every line."""
    middle = len(SHIFTED_TESTS) // 2
    told = []
    for line in data.lines:
        at = (line.accuracy[0], line.accuracy[middle], line.accuracy[-1])
        numbers = " / ".join(f"{s.mean:.1f}" if s is not None else "none" for s in at)
        told.append(f"“{line.row}”{_SHOWN[SHIFTED_FORMS.index(line.form)]} ({PREDICT[line.predict]}) {numbers}")
    ends = f"{SHIFTED_TESTS[0]}, {SHIFTED_TESTS[middle]} and {SHIFTED_TESTS[-1]}"
    spread = seeds(s.n for line in data.lines for s in line.accuracy if s is not None)
    told_of = f"Accuracy in percent on test sets of {len(SHIFTED_TESTS)} distributions, mean over {spread}"
    return f"{told_of}; {ends}: {listed(told)}. Compensation is right for logits without a prior; those of CE hold one."
