"""Accuracy against what a training step costs: who pays for what, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from analysis.figures import style
from analysis.figures.common import ACCURACY, PREDICT, Csv, accuracy_of, listed, palette, titles
from analysis.read.selection import value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.context import Context
from ltsearch.store.records import STEP_GMACS, FigureRequest

CAPTION = (
    "Accuracy against the multiply-adds of a training step; whiskers: standard deviation over seeds, line: Pareto front"
)


@dataclass(frozen=True)
class Point:
    """One row with one prediction: 10⁹ multiply-adds a step and image, and accuracy in percent."""

    row: str
    predict: str
    cost: float
    accuracy: Summary
    front: bool


@dataclass(frozen=True)
class AccuracyCost:
    """Points of one setting, in the order of the rows."""

    setting: str
    points: tuple[Point, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> AccuracyCost | None:
    """Every row with what it predicts with; None without two points, or without costs."""
    settings = context.settings()
    setting = request.setting if request.setting is not None else settings[0] if settings else ""
    called = titles(context)
    found: dict[tuple[str, str], tuple[float, Summary]] = {}
    for row in context.rows(request.rows, setting):
        cost = summarize([v for run in context.runs(row).values() if (v := value(run, STEP_GMACS)) is not None])
        accuracy = accuracy_of(context, row, row.predict, "all")
        if cost is not None and accuracy is not None and row.predict in request.predict:
            found[called[row.name], row.predict] = cost.mean, accuracy
    if len(found) < 2:
        return None
    best = front([(cost, accuracy.mean) for cost, accuracy in found.values()])
    points = [
        Point(row, predict, cost, accuracy, i in best)
        for i, ((row, predict), (cost, accuracy)) in enumerate(found.items())
    ]
    return AccuracyCost(setting, tuple(points), palette(context))


def front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Numbers of the points (cost, accuracy) than which no other is as cheap and as accurate and in one of them better."""
    return {
        i
        for i, (cost, accuracy) in enumerate(points)
        if not any(c <= cost and a >= accuracy and (c, a) != (cost, accuracy) for c, a in points)
    }


def render(data: AccuracyCost) -> Figure:
    """Single filled, ensemble open; the front as a line of steps."""
    names = list(dict.fromkeys(point.row for point in data.points))
    looks = style.looks(names, data.palette)
    figure = style.figure(style.WIDTH, 3.4 + 0.2 * -(-len(names) // style.columns(names)))
    axes = figure.subplots()
    best = sorted((point.cost, point.accuracy.mean) for point in data.points if point.front)
    axes.step(*zip(*best, strict=True), where="post", color=style.GREY, linewidth=0.9, zorder=1)
    handles = {}
    for point in data.points:
        look = looks[point.row]
        face = look.colour if point.predict == "single" else "none"
        spread = point.accuracy.std or 0.0
        axes.errorbar(
            point.cost,
            point.accuracy.mean,
            spread,
            color=look.colour,
            marker=look.marker,
            markerfacecolor=face,
            linestyle="none",
        )
        handles[point.row] = Line2D([], [], color=look.colour, marker=look.marker, linestyle="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training step: 10⁹ multiply-adds per image")
    axes.set_ylabel(ACCURACY)
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def table(data: AccuracyCost) -> Csv:
    """One line a point."""
    header = ["setting", "row", "prediction", "step_gmacs", "accuracy", "std", "seeds", "pareto_front"]
    return header, [
        [data.setting, p.row, p.predict, p.cost, p.accuracy.mean, p.accuracy.std, p.accuracy.n, p.front]
        for p in data.points
    ]


def describe(data: AccuracyCost) -> str:
    """The front, from cheap to dear."""
    best = sorted((point for point in data.points if point.front), key=lambda point: point.cost)
    told = listed([f"“{p.row}” ({PREDICT[p.predict]}) {p.accuracy.mean:.2f} % at {p.cost:.3g}" for p in best])
    return f"Accuracy of {len(data.points)} rows over 10⁹ multiply-adds of a training step per image. On the front: {told}."
