"""Figures of a search: its history, slices, parallel coordinates, importances. Each is ``build`` and ``render``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import search_front, style
from analysis.read import labels
from analysis.tables.search import SearchSummary, rated

_COLUMNS = 3  # slice panels side by side
_FINISHED = {"s": 22, "linewidths": 0, "color": style.BLUE}
_PRUNED = {"s": 20, "marker": "x", "linewidths": 1.0, "color": style.GREY}


@dataclass(frozen=True)
class History:
    """Of one metric: numbers and values of finished and of pruned trials, and the best finished value so far."""

    metric: str
    finished: tuple[tuple[int, float], ...]
    pruned: tuple[tuple[int, float], ...]
    best: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Slice:
    """Of one metric over one parameter. ``x`` are numbers, or positions in ``categories``."""

    metric: str
    parameter: str
    categories: tuple[str, ...]  # empty for a numeric parameter
    log: bool
    finished: tuple[tuple[float, float], ...]  # (x, value)
    pruned: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Axis:
    """A parameter of parallel coordinates: what its ends say, and by trial its value as text."""

    name: str
    low: str
    high: str
    said: dict[int, str]


@dataclass(frozen=True)
class Path:
    """A finished trial across all axes: where on each, from 0 to 1; None where it lacks the parameter."""

    trial: int
    value: float
    at: tuple[float | None, ...]


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates of one metric; lines from the best to the worst."""

    metric: str
    axes: tuple[Axis, ...]
    lines: tuple[Path, ...]


@dataclass(frozen=True)
class Importances:
    """Shares of the variance by parameter, largest first, of every metric."""

    parameters: tuple[str, ...]
    shares: dict[str, tuple[float, ...]]  # by metric


def draw(summary: SearchSummary) -> dict[str, tuple[str, str, Figure]]:
    """Captions, alt texts and figures by file name, of what there is to draw; their data are in ``search_trials.csv``."""
    drawn: dict[str, tuple[str, str, Figure]] = {}
    histories = build_history(summary)
    if any(history.finished or history.pruned for history in histories):
        reached = [f"{labels.label(h.metric)} {h.best[-1][1]:.4g}" for h in histories if h.best]
        alt = f"{len(summary.trials)} trials of the search over their numbers; best in the end: {', '.join(reached) or 'none'}."
        drawn["search_history"] = "Value of every trial and the best so far", alt, render_history(histories)
    for number, metric in enumerate(summary.metrics):
        slices = build_slices(summary, number)
        if slices:
            name = f"search_slices_{number + 1}" if len(summary.metrics) > 1 else "search_slices"
            caption = f"{labels.label(metric)} over every parameter"
            alt = f"One panel for each of {', '.join(s.parameter for s in slices)}: {labels.label(metric)} of every trial."
            drawn[name] = caption, alt, render_slices(slices)
    for number, metric in enumerate(summary.metrics):
        shown = build_parallel(summary, number)
        if len(shown.axes) > 1 and shown.lines:
            name = f"search_parallel_{number + 1}" if len(summary.metrics) > 1 else "search_parallel"
            caption = f"Parallel coordinates of finished trials, coloured by {labels.label(metric)}"
            best = ", ".join(f"{axis.name} {axis.said.get(shown.lines[0].trial, 'absent')}" for axis in shown.axes)
            alt = f"{len(shown.lines)} lines across {len(shown.axes)} axes; the best: {best}."
            drawn[name] = caption, alt, render_parallel(shown)
    for pair in search_front.build(summary):
        ends = f"{len(pair.front)} of {len(pair.points)} finished trials are on the Pareto front of all objectives"
        caption = f"{labels.label(pair.y)} against {labels.label(pair.x)}"
        drawn[f"search_front_{slug(pair.x)}_{slug(pair.y)}"] = caption, f"{caption}: {ends}.", search_front.render(pair)
    importances = build_importances(summary)
    if importances is not None:
        first = next(iter(importances.shares))
        top = f"{importances.parameters[0]} {importances.shares[first][0]:.2f} for {labels.label(first)}"
        alt = f"Bars of the importance of {len(importances.parameters)} parameters; the largest: {top}."
        over = rated(summary)
        caption = f"Importance of the parameters, {over[0].lower()}{over[1:]}"
        drawn["search_importances"] = caption, alt, render_importances(importances)
    return drawn


def slug(metric: str) -> str:
    """A metric's name in a file's name."""
    return metric.rsplit("/", 1)[-1]


# -- build -------------------------------------------------------------------------------------------------------------


def build_history(summary: SearchSummary) -> list[History]:
    """One for every metric."""
    found = []
    for i, (metric, direction) in enumerate(zip(summary.metrics, summary.directions, strict=True)):
        finished = _points(summary, i, "finished")
        pick = max if direction.startswith("max") else min
        best: list[tuple[int, float]] = []
        for number, reached in finished:
            best.append((number, pick(reached, best[-1][1]) if best else reached))
        pruned = _points(summary, i, "pruned")
        if best and pruned and pruned[-1][0] > best[-1][0]:
            best.append((pruned[-1][0], best[-1][1]))
        found.append(History(metric, tuple(finished), tuple(pruned), tuple(best)))
    return found


def _points(summary: SearchSummary, metric: int, state: str) -> list[tuple[int, float]]:
    return [(t.number, t.values[metric]) for t in summary.trials if t.state == state and t.values is not None]


def build_slices(summary: SearchSummary, metric: int = 0) -> list[Slice]:
    """One for every parameter; a trial without the parameter, whose condition did not hold, has no point."""
    slices = []
    for name in summary.parameters:
        trials = [t for t in summary.trials if name in t.params and t.values is not None]
        values = [t.params[name] for t in trials]
        if not trials:
            continue
        numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        categories = [] if numeric else _categories(values, summary.space.get(name, ""))
        points: dict[str, list[tuple[float, float]]] = {"finished": [], "pruned": []}
        for trial, found in zip(trials, values, strict=True):
            x = float(found) if numeric else float(categories.index(labels.text(found)))
            if trial.state in points and trial.values is not None:
                points[trial.state].append((x, trial.values[metric]))
        log = numeric and summary.space.get(name, "").startswith("loguniform")
        finished, pruned = tuple(points["finished"]), tuple(points["pruned"])
        slices.append(Slice(summary.metrics[metric], name, tuple(categories), log, finished, pruned))
    return slices


def _categories(values: Sequence[Any], space: str) -> list[str]:
    """Values in the order in which the space lists them, where it does."""
    texts = sorted({labels.text(v) for v in values})
    switches = {"True": True, "False": False}
    listed = [labels.text(switches.get(part, part)) for part in space.removeprefix("choice ").split(", ")]
    return sorted(texts, key=lambda text: (listed.index(text) if text in listed else len(listed), text))


def build_parallel(summary: SearchSummary, metric: int = 0) -> Parallel:
    """Over all parameters that differ between finished trials: numbers by place (or its logarithm), choices by rank."""
    sign = -1 if summary.directions[metric].startswith("max") else 1
    trials = [t for t in summary.trials if t.state == "finished" and t.values is not None]
    trials.sort(key=lambda t: (sign * (t.values or [0.0])[metric], t.number))
    axes, places = [], []
    names = labels.short_names(summary.parameters)
    for shown in build_slices(summary, metric):
        values = {t.number: t.params[shown.parameter] for t in trials if shown.parameter in t.params}
        said = {number: labels.text(value) for number, value in values.items()}
        if len(set(said.values())) < 2:
            continue
        if shown.categories:
            used = [c for c in shown.categories if c in said.values()]
            where = {number: float(used.index(text)) for number, text in said.items()}
            ends = used[0], used[-1]
        else:
            where = {number: math.log(value) if shown.log else float(value) for number, value in values.items()}
            ends = labels.text(min(values.values())), labels.text(max(values.values()))
        low, high = min(where.values()), max(where.values())
        axes.append(Axis(names[shown.parameter], *ends, said))
        places.append({number: (value - low) / (high - low) for number, value in where.items()})
    lines = [Path(t.number, (t.values or [0.0])[metric], tuple(p.get(t.number) for p in places)) for t in trials]
    return Parallel(summary.metrics[metric], tuple(axes), tuple(lines))


def build_importances(summary: SearchSummary) -> Importances | None:
    """None if the search computed none."""
    if not summary.importances:
        return None
    total: dict[str, float] = {}
    for values in summary.importances.values():
        for name, share in values.items():
            total[name] = total.get(name, 0.0) + share
    names = sorted(total, key=lambda name: (-total[name], name))
    shares = {metric: tuple(values.get(n, 0.0) for n in names) for metric, values in summary.importances.items()}
    return Importances(tuple(names), shares)


# -- render ------------------------------------------------------------------------------------------------------------


def render_history(histories: Sequence[History]) -> Figure:
    """One panel a metric, below each other."""
    figure = style.figure(style.WIDTH, 2.9 * len(histories))
    grid = figure.subplots(len(histories), 1, squeeze=False)
    for axes, history in zip(grid[:, 0], histories, strict=True):
        _scatter(axes, history.finished, history.pruned)
        if history.best:
            x, y = zip(*history.best, strict=True)
            axes.step(x, y, where="post", color=style.VERMILION, label="best so far", zorder=1)
        axes.set_xlabel("trial")
        axes.set_ylabel(labels.label(history.metric))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        # Beside the axes, so that it never hides a trial.
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def render_slices(slices: Sequence[Slice]) -> Figure:
    """One panel a parameter, on one scale of values."""
    columns = min(_COLUMNS, len(slices))
    rows = math.ceil(len(slices) / columns)
    width, height = style.PANEL
    figure = style.figure(width * columns, height * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for number, axes in enumerate(grid.flat):
        if number >= len(slices):
            axes.set_axis_off()
            continue
        _slice(axes, slices[number])
        if number % columns == 0:
            axes.set_ylabel(labels.label(slices[number].metric))
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2)
    return figure


def render_parallel(shown: Parallel) -> Figure:
    """A line a trial, the best last and on top; ends of axes say what they are."""
    figure = style.figure(max(style.WIDTH, 1.1 * len(shown.axes)), 3.4)
    axes = figure.subplots()
    values = [line.value for line in shown.lines]
    colours = matplotlib.colormaps["viridis"]
    norm = Normalize(min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for line in reversed(shown.lines):
        points = [(x, y) for x, y in enumerate(line.at) if y is not None]
        axes.plot(*zip(*points, strict=True), color=colours(norm(line.value)), linewidth=1.0, alpha=0.7)
    for x, axis in enumerate(shown.axes):
        axes.axvline(x, color=style.GREY, linewidth=0.8, zorder=0)
        for y, text, side in ((1.0, axis.high, "bottom"), (0.0, axis.low, "top")):
            axes.annotate(
                style.plain(_shortened(text)), (x, y), (0, 4 if side == "bottom" else -4),
                textcoords="offset points", ha="center", va=side, fontsize=8,
            )  # fmt: skip
    axes.set_xticks(range(len(shown.axes)), [style.plain(axis.name) for axis in shown.axes])
    axes.tick_params(axis="x", pad=14)
    axes.set_yticks([])
    axes.set_ylim(-0.02, 1.08)
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.colorbar(ScalarMappable(norm, colours), ax=axes, label=labels.label(shown.metric))
    return figure


def _slice(axes: Axes, shown: Slice) -> None:
    _scatter(axes, _spread(shown.finished) if shown.categories else shown.finished, shown.pruned)
    axes.set_xlabel(shown.parameter)
    if shown.categories:
        axes.set_xticks(range(len(shown.categories)), [_shortened(c) for c in shown.categories])
        axes.set_xlim(-0.6, len(shown.categories) - 0.4)
        letters = sum(len(_shortened(c)) + 2 for c in shown.categories)
        if letters > 34:  # about what fits below a panel
            axes.tick_params(axis="x", labelrotation=60 if len(shown.categories) > 6 else 30)
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right")
                tick.set_rotation_mode("anchor")
    elif shown.log:
        axes.set_xscale("log")
    elif all(x == int(x) for x, _ in (*shown.finished, *shown.pruned)):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _spread(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Set points of one category side by side, the same way every time."""
    offsets = (0.0, 0.12, -0.12, 0.24, -0.24)
    seen: dict[float, int] = {}
    moved = []
    for x, y in points:
        seen[x] = seen.get(x, -1) + 1
        moved.append((x + offsets[seen[x] % len(offsets)], y))
    return moved


def _shortened(text: str, most: int = 16) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _scatter(axes: Axes, finished: Sequence[tuple[float, float]], pruned: Sequence[tuple[float, float]]) -> None:
    for points, name, look in ((finished, "finished", _FINISHED), (pruned, "stopped early (last value)", _PRUNED)):
        array = np.asarray(points, dtype=float).reshape(-1, 2)
        axes.scatter(array[:, 0], array[:, 1], label=name, zorder=2, **look)  # type: ignore[arg-type]


def render_importances(shown: Importances) -> Figure:
    """Bars, the most important parameter on top; one colour a metric."""
    metrics = list(shown.shares)
    figure = style.figure(style.WIDTH, 1.1 + max(0.34, 0.22 * len(metrics)) * len(shown.parameters))
    axes = figure.subplots()
    at = np.arange(len(shown.parameters), dtype=float)
    thick = 0.8 / len(metrics)
    colours = (style.BLUE, style.ORANGE, style.GREEN, style.PURPLE, style.SKY, style.VERMILION)
    for i, metric in enumerate(metrics):
        offset = (i - (len(metrics) - 1) / 2) * thick
        colour = colours[i % len(colours)]
        named = labels.label(metric)
        bars = axes.barh(at + offset, shown.shares[metric], height=thick * 0.9, color=colour, label=named)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(at, shown.parameters)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, max(max(values) for values in shown.shares.values()) * 1.12 or 1.0)
    axes.set_xlabel("importance (share of the variance)")
    if len(metrics) > 1:
        figure.legend(loc="outside upper right", ncols=2)
    return figure
