"""What a method gains over another, setting by setting, against how well the networks fit their training images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.common import PREDICT, Csv, accuracy_of, listed, titles
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.ablation import percent
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest, PlannedRow

CAPTION = (
    "Difference of accuracy between two rows against the accuracy of the second on its augmented training images, a point "
    "for every setting; whiskers: standard error over seeds, where there are several"
)
FIT = "train/top1"


@dataclass(frozen=True)
class Point:
    """One setting with one prediction: fit in percent, gain in points with its standard error (None with one seed each)."""

    setting: str
    predict: str
    fit: float
    gain: float
    error: float | None
    seeds: tuple[int, int]  # of the row, of the reference


@dataclass(frozen=True)
class Gain:
    """Points of all settings, in their order."""

    row: str
    reference: str
    points: tuple[Point, ...]


def build(context: Context, request: FigureRequest) -> Gain | None:
    """Settings in which both rows have finished; None if there is none."""
    row, reference = request.rows
    points = []
    for setting in context.settings():
        if request.setting not in (None, setting):
            continue
        one, other = (_row(context, name, setting) for name in (row, reference))
        if one is None or other is None or (fit := summarize(percent(context.runs(other), FIT))) is None:
            continue
        for predict in dict.fromkeys(request.predict):
            ours, theirs = (accuracy_of(context, each, predict, "all") for each in (one, other))
            if ours is not None and theirs is not None:
                gain, counts = ours.mean - theirs.mean, (ours.n, theirs.n)
                points.append(Point(setting, predict, fit.mean, gain, _error(ours, theirs), counts))
    called = titles(context)
    return Gain(called[row], called[reference], tuple(points)) if points else None


def _row(context: Context, name: str, setting: str) -> PlannedRow | None:
    return next((row for row in context.rows([name], setting) if row.name == name), None)


def _error(one: Summary, other: Summary) -> float | None:
    if one.std is None or other.std is None:
        return None
    return math.sqrt(one.std**2 / one.n + other.std**2 / other.n)


def render(data: Gain) -> Figure:
    """Single filled, ensemble open, a colour and a marker for every setting."""
    settings = list(dict.fromkeys(point.setting for point in data.points))
    names = [setting or "all" for setting in settings]
    looks = dict(zip(settings, style.looks(names).values(), strict=True))
    figure = style.figure(style.WIDTH, 3.2 + 0.2 * -(-len(names) // style.columns(names)))
    axes = figure.subplots()
    axes.axhline(0, color=style.GREY, linewidth=0.9, zorder=1)
    for point in data.points:
        look = looks[point.setting]
        face = look.colour if point.predict == "single" else "none"
        axes.errorbar(
            point.fit,
            point.gain,
            point.error or 0.0,
            color=look.colour,
            marker=look.marker,
            markerfacecolor=face,
            linestyle="none",
        )
    axes.set_xlabel(f"{data.reference}: accuracy on augmented training images (%)")
    axes.set_ylabel(f"{data.row} − {data.reference} (points)")
    handles = [Line2D([], [], color=looks[s].colour, marker=looks[s].marker, linestyle="none") for s in settings]
    labels = list(names)
    if len({point.predict for point in data.points}) > 1:
        for predict, face in (("single", style.GREY), ("ensemble", "none")):
            handles.append(Line2D([], [], color=style.GREY, marker="o", markerfacecolor=face, linestyle="none"))
            labels.append(PREDICT[predict])
    style.legend(figure, handles, labels)
    return figure


def table(data: Gain) -> Csv:
    """One line a point."""
    header = ["row", "reference", "setting", "prediction", "fit", "gain", "standard_error", "seeds", "reference_seeds"]
    return header, [
        [data.row, data.reference, p.setting, p.predict, p.fit, p.gain, p.error, *p.seeds] for p in data.points
    ]


def describe(data: Gain) -> str:
    """Every point, from the worst fit to the best."""
    told = [
        f"{p.gain:+.2f} points ({PREDICT[p.predict]}) where {p.fit:.1f} % are right{f', {p.setting}' if p.setting else ''}"
        for p in sorted(data.points, key=lambda point: point.fit)
    ]
    return (
        f"Accuracy of “{data.row}” minus that of “{data.reference}” against the accuracy of the latter on its training "
        f"images: {listed(told)}."
    )
