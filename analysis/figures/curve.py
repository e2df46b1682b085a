"""Accuracy over a key of the configuration: Figs. 5, 6(a) and 7, Table 9.

The rows are the points of one line. Where the ablation's settings differ in the key, every row is a line over the settings;
where it has settings that do not, every setting is a line over the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
    omitted,
    palette,
    predictions,
    seeds,
    titles,
)
from analysis.read import labels
from analysis.statistics.seeds import Summary
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest, PlannedRow

CAPTION = "Accuracy over a key of the configuration"
_APART = 0.055  # of the axis: nearer ticks would touch
_DODGE = 0.01  # of the axis: how far an ensemble stands beside the single expert, whose error bar it would cover


@dataclass(frozen=True)
class Point:
    """One row in one setting; accuracy in percent."""

    x: float
    row: str
    setting: str
    accuracy: Summary


@dataclass(frozen=True)
class Line:
    """Points by x. ``name`` is empty where the prediction is all that tells lines apart."""

    name: str
    predict: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Curve:
    """Lines by split, one panel each. ``left_out``: rows without a number on the axis."""

    key: str
    x_label: str
    panels: dict[str, tuple[Line, ...]]
    left_out: tuple[str, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> Curve | None:
    """Mean and spread over seeds at every x; None if no run has finished."""
    key = request.x or ""
    rows = distinct(context.rows(request.rows, request.setting))
    at = {id(row): x for row in rows if (x := _number(row.config, key, request.absent)) is not None}
    placed = [row for row in rows if id(row) in at]
    called = titles(context)
    named = _line_names(placed, [at[id(row)] for row in placed], called)
    asked = predictions(context, placed, request.predict)
    panels: dict[str, tuple[Line, ...]] = {}
    for split in dict.fromkeys(request.splits):
        points: dict[tuple[str, str], list[Point]] = {}
        for row, name in zip(placed, named, strict=True):
            for predict in asked:
                found = accuracy_of(context, row, predict, split)
                if found is not None:
                    point = Point(at[id(row)], called[row.name], row.setting, found)
                    points.setdefault((name, predict), []).append(point)
        if points:
            panels[split] = tuple(Line(*k, tuple(sorted(ps, key=lambda p: p.x))) for k, ps in points.items())
    if not panels:
        return None
    left_out = tuple(row.label for row in rows if id(row) not in at)
    return Curve(key, request.x_label or key, panels, left_out, palette(context))


def _number(config: Mapping[str, Any], key: str, absent: float | None) -> float | None:
    """What a configuration has under a dotted key; None if that is not a number."""
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if node is None:
        return absent
    return float(node) if isinstance(node, int | float) and not isinstance(node, bool) else None


def _line_names(rows: Sequence[PlannedRow], xs: Sequence[float], called: Mapping[str, str]) -> list[str]:
    """Which line every row is a point of. A second row at the same x is a line of its own: no line goes straight up."""
    over: dict[str, set[float]] = {}
    for row, x in zip(rows, xs, strict=True):
        over.setdefault(row.name, set()).add(x)
    over_settings = any(len(found) > 1 for found in over.values())
    several = len({row.setting for row in rows}) > 1
    names: list[str] = []
    for row, x in zip(rows, xs, strict=True):
        name = called[row.name] if over_settings else row.setting if several else ""
        taken = any(other == name and xs[i] == x for i, other in enumerate(names))
        extra = ", ".join(part for part in (called[row.name], row.setting) if part)
        names.append(extra if taken else name)
    return names


# -- render ------------------------------------------------------------------------------------------------------------


def render(data: Curve) -> Figure:
    """One panel a split, two side by side."""
    columns = min(2, len(data.panels))
    down = -(-len(data.panels) // columns)
    width = style.WIDTH if columns > 1 else 4.6
    everything = [line for lines in data.panels.values() for line in lines]
    entries = list(dict.fromkeys(_entry(line, everything) for line in everything))
    height = 2.5 * down + 0.5 + 0.18 * -(-len(entries) // style.columns(entries, width))
    predict = {line.predict for line in everything}
    y_label = ACCURACY + (f"\n{PREDICT[min(predict)]}" if len(predict) == 1 else "")
    figure = style.figure(width, height)
    grid = figure.subplots(down, columns, squeeze=False, sharex=True)
    looks = style.looks(list(dict.fromkeys(line.name for line in everything if line.name)), data.palette)
    xs = sorted({point.x for line in everything for point in line.points})
    handles: dict[str, Any] = {}
    for number, axes in enumerate(grid.flat):
        if number >= len(data.panels):
            axes.set_axis_off()
            continue
        split, lines = list(data.panels.items())[number]
        single = {point.x for line in lines if line.predict == "single" for point in line.points}
        for line in lines:
            at = [_beside(p.x, xs) if line.predict == "ensemble" and p.x in single else p.x for p in line.points]
            handles.setdefault(_entry(line, everything), _draw(axes, line, at, looks))
        if len(data.panels) > 1 or split != "all":
            axes.set_title(SPLITS[split])
        axes.set_ylabel(y_label if number % columns == 0 else "")
        axes.set_xlabel(style.plain(data.x_label))
        axes.tick_params(labelbottom=True)
    _ticks(grid[0, 0], xs)
    if len(handles) > 1:
        style.legend(figure, list(handles.values()), list(handles))
    return figure


def _entry(line: Line, everything: Sequence[Line]) -> str:
    several = len({other.predict for other in everything}) > 1
    return ", ".join(part for part in (line.name, PREDICT[line.predict] if several or not line.name else "") if part)


def _draw(axes: Axes, line: Line, x: Sequence[float], looks: Mapping[str, style.Look]) -> Any:
    """Named lines have the colour of the name and a dashed line with open markers for the ensemble."""
    look = looks[line.name] if line.name else PREDICT_LOOKS[line.predict]
    mean = [point.accuracy.mean for point in line.points]
    return axes.errorbar(
        list(x),
        mean,
        yerr=[point.accuracy.std or 0.0 for point in line.points],
        color=look.colour,
        marker=look.marker,
        linestyle=PREDICT_LOOKS[line.predict].line,
        markerfacecolor="white" if line.predict == "ensemble" else look.colour,
        elinewidth=1.0,
        zorder=3 if line.predict == "single" else 2.5,
    )


def _ticks(axes: Axes, xs: Sequence[float]) -> None:
    """Ticks where there are values; on a logarithmic axis if they would touch otherwise."""
    shown = _spaced(xs)
    if _logarithmic(xs):
        axes.set_xscale("log")
        axes.minorticks_off()
        shown = list(xs)
    axes.set_xticks(shown, [labels.text(int(x) if x == int(x) else x) for x in shown])


def _logarithmic(xs: Sequence[float]) -> bool:
    return len(_spaced(xs)) < len(xs) and xs[0] > 0


def _beside(x: float, xs: Sequence[float]) -> float:
    """A little to the right of ``x`` on the axis that these values have."""
    return float(x * (xs[-1] / xs[0]) ** _DODGE) if _logarithmic(xs) else x + _DODGE * (xs[-1] - xs[0])


def _spaced(xs: Sequence[float]) -> list[float]:
    chosen: list[float] = []
    for x in xs:
        if not chosen or x - chosen[-1] >= _APART * (xs[-1] - xs[0]):
            chosen.append(x)
    return chosen


# -- texts -------------------------------------------------------------------------------------------------------------


def table(data: Curve) -> Csv:
    """One line a point. Accuracies in percent."""
    header = ["split", "line", "predict", "row", "setting", data.key, "accuracy", "std", "seeds"]
    rows: list[list[object]] = []
    for split, lines in data.panels.items():
        for line in lines:
            for p in line.points:
                numbers = [p.x, p.accuracy.mean, p.accuracy.std, p.accuracy.n]
                rows.append([split, line.name, line.predict, p.row, p.setting, *numbers])
    return header, rows


def describe(data: Curve) -> str:
    """First, last and best value of every line."""
    split, lines = next(iter(data.panels.items()))
    parts = []
    for line in lines:
        first, last = line.points[0], line.points[-1]
        best = max(line.points, key=lambda p: p.accuracy.mean)
        name = f"“{line.name}” " if line.name else ""
        said = f"{name}{PREDICT[line.predict]} {first.accuracy.mean:.2f} at {labels.text(first.x)}"
        if len(line.points) > 1:
            said += f", {last.accuracy.mean:.2f} at {labels.text(last.x)}"
            said += f", best {best.accuracy.mean:.2f} at {labels.text(best.x)}"
        parts.append(said)
    others = [SPLITS[s] for s in data.panels if s != split]
    also = f" Further panels: {listed(others)}." if others else ""
    spread = seeds(p.accuracy.n for panel in data.panels.values() for line in panel for p in line.points)
    shown = f"Test accuracy in percent over {data.x_label}, {SPLITS[split]}, mean over {spread}: {'; '.join(parts)}."
    return shown + also + omitted(data.left_out, f"without a number {data.key}")
