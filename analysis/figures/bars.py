"""Accuracy by row: Figs. 6(b), 11(b) and 12.

Drawn as points with error bars: a bar that does not start at 0 would show a wrong proportion, and one that does hides
differences of a percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.common import (
    ACCURACY,
    PREDICT,
    PREDICT_LOOKS,
    SPLITS,
    Csv,
    accuracy_of,
    distinct,
    listed,
    palette,
    predictions,
    seeds,
    titles,
)
from analysis.markdown import mean_std
from analysis.statistics.seeds import Summary
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest

CAPTION = "Accuracy by row"
_COLUMNS = 3  # panels side by side
_LETTER = 0.068  # inches
_BELOW = 0.03  # of the axis that are shown below 0


@dataclass(frozen=True)
class Panel:
    """One setting and split: accuracies in percent, by row and prediction."""

    setting: str
    split: str
    accuracy: dict[tuple[str, str], Summary]


@dataclass(frozen=True)
class Bars:
    """Panels, settings first; ``rows`` from top to bottom."""

    rows: tuple[str, ...]
    predict: tuple[str, ...]
    panels: tuple[Panel, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> Bars | None:
    """Mean and spread over seeds; panels without data are left out, None if all are."""
    rows = distinct(context.rows(request.rows, request.setting))
    asked = predictions(context, rows, request.predict)
    called = titles(context)
    panels = []
    for setting in dict.fromkeys(row.setting for row in rows):
        for split in dict.fromkeys(request.splits):
            accuracy: dict[tuple[str, str], Summary] = {}
            for row in (r for r in rows if r.setting == setting):
                for predict in asked:
                    found = accuracy_of(context, row, predict, split)
                    if found is not None:
                        accuracy[called[row.name], predict] = found
            if accuracy:
                panels.append(Panel(setting, split, accuracy))
    if not panels:
        return None
    there = {name for panel in panels for name, _ in panel.accuracy}
    names = tuple(name for name in dict.fromkeys(called[row.name] for row in rows) if name in there)
    return Bars(names, tuple(asked), tuple(panels), palette(context))


# -- render ------------------------------------------------------------------------------------------------------------


def render(data: Bars) -> Figure:
    """Rows from top to bottom on one axis of accuracy for all panels; single filled, ensemble open; every mean is printed."""
    columns = {1: 1, 2: 2, 4: 2}.get(len(data.panels), _COLUMNS)
    splits = len({panel.split for panel in data.panels})
    if splits == _COLUMNS:
        columns = _COLUMNS  # a setting a line
    elif splits == 2:
        columns = 2
    down = -(-len(data.panels) // columns)
    names = [_wrapped(name) for name in data.rows]
    named = 0.3 + _LETTER * max(len(part) for name in names for part in name.split("\n"))  # inches
    width = max(4.6, named + 1.9 * columns)
    band = 0.22 * len(data.predict) + 0.12
    figure = style.figure(width, (0.55 + band * len(data.rows)) * down + 0.7)
    grid = figure.subplots(down, columns, squeeze=False, sharex=True, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(data.panels):
            axes.set_axis_off()
            continue
        _panel(axes, data, data.panels[number])
        axes.tick_params(labelbottom=number + columns >= len(data.panels))
    start, end = _limits([s for p in data.panels for s in p.accuracy.values()], (width - named) / columns)
    # From 0 on, a point near it would stand on the line of the axis.
    grid[0, 0].set_xlim(start if start else -_BELOW * end, end)
    grid[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    grid[0, 0].set_yticks(range(len(names)), [style.plain(name) for name in names])
    grid[0, 0].set_ylim(len(names) - 0.5, -0.5)
    of = "" if len(data.predict) > 1 else f", {PREDICT[data.predict[0]]}"
    figure.supxlabel(f"{ACCURACY}{of}" + (f"; the axis starts at {start:g}" if start else ""), fontsize=9)
    if len(data.predict) > 1:
        style.legend(figure, [_handle(predict) for predict in data.predict], [PREDICT[p] for p in data.predict])
    return figure


def _panel(axes: Axes, data: Bars, panel: Panel) -> None:
    looks = style.looks(data.rows, data.palette)
    step = 0.62 / len(data.predict)
    for (name, predict), accuracy in panel.accuracy.items():
        y = data.rows.index(name) + (data.predict.index(predict) - (len(data.predict) - 1) / 2) * step
        look, spread = looks[name], accuracy.std or 0.0
        axes.errorbar(
            accuracy.mean,
            y,
            xerr=spread,
            color=look.colour,
            marker=PREDICT_LOOKS[predict].marker,
            markerfacecolor="white" if predict == "ensemble" else look.colour,
            elinewidth=1.2,
        )
        at = (accuracy.mean + spread, y)
        axes.annotate(f"{accuracy.mean:.2f}", at, (6, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.grid(False, axis="y")
    several = len({other.split for other in data.panels}) > 1
    parts = (panel.setting, SPLITS[panel.split] if panel.split != "all" or several else "")
    axes.set_title(style.plain(", ".join(part for part in parts if part)))


def _limits(shown: Sequence[Summary], width: float) -> tuple[float, float]:
    """From a round number below the smallest value to where the printed means have room, on ``width`` inches."""
    low = min(s.mean - (s.std or 0.0) for s in shown)
    high = max(s.mean + (s.std or 0.0) for s in shown)
    unit = next(u for u in (1, 2, 5, 10, 20, 50) if u >= (high - low) / 3)
    start = max(0.0, math.floor((low - 0.1 * (high - low)) / unit) * unit)
    room = min(0.5, 0.6 / max(width - 0.2, 0.6))  # the share of the axis that five digits take
    return start, start + max(high - start, 0.5) / (1 - room)


def _handle(predict: str) -> Line2D:
    look = PREDICT_LOOKS[predict]
    face = "white" if predict == "ensemble" else style.BLACK
    return Line2D([], [], color=style.BLACK, marker=look.marker, markerfacecolor=face, linestyle="none")


def _wrapped(name: str, most: int = 32) -> str:
    if len(name) <= most:
        return name
    cut = name.rfind(" ", 0, most)
    return name if cut < 0 else f"{name[:cut]}\n{_wrapped(name[cut + 1 :], most)}"


# -- texts -------------------------------------------------------------------------------------------------------------


def table(data: Bars) -> Csv:
    """One line a point. Accuracies in percent."""
    header = ["setting", "split", "row", "predict", "accuracy", "std", "seeds"]
    rows: list[list[object]] = []
    for panel in data.panels:
        for (name, predict), accuracy in panel.accuracy.items():
            rows.append([panel.setting, panel.split, name, predict, accuracy.mean, accuracy.std, accuracy.n])
    return header, rows


def describe(data: Bars) -> str:
    """All means of the first panel, the best row of every other."""
    first, *others = data.panels
    spread = seeds(accuracy.n for panel in data.panels for accuracy in panel.accuracy.values())
    told = []
    for name in data.rows:
        found = {p: mean_std(first.accuracy[name, p]) for p in data.predict if (name, p) in first.accuracy}
        if found:
            told.append(f"“{name}” " + listed([f"{PREDICT[p]} {value}" for p, value in found.items()]))
    text = f"Test accuracy in percent, mean ± standard deviation over {spread}; {_where(first)}: {'; '.join(told)}."
    best = [(panel, *max(panel.accuracy.items(), key=lambda item: item[1].mean)) for panel in others]
    if best:
        rest = [f"{_where(panel)} “{key[0]}” ({PREDICT[key[1]]}) with {found.mean:.2f}" for panel, key, found in best]
        text += f" Best elsewhere: {'; '.join(rest)}."
    return text


def _where(panel: Panel) -> str:
    return ", ".join(part for part in (panel.setting, SPLITS[panel.split]) if part)
