"""The Pareto front of a search with several objectives, two objectives at a time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.read import labels
from analysis.tables.search import SearchSummary


@dataclass(frozen=True)
class Front:
    """Finished trials over two objectives, and those that are on the front of all objectives, sorted by x."""

    x: str
    y: str
    points: tuple[tuple[float, float], ...]
    front: tuple[tuple[int, float, float], ...]  # trial, x, y


def build(summary: SearchSummary) -> list[Front]:
    """One for every pair of objectives; what is to be small, such as a cost, is on the horizontal axis."""
    found = []
    front = {trial.number for trial in summary.best}
    trials = [t for t in summary.trials if t.state == "finished" and t.values is not None]
    order = sorted(range(len(summary.metrics)), key=lambda i: not summary.directions[i].startswith("min"))
    for i, j in combinations(order, 2):
        points = [(t.number, t.values[i], t.values[j]) for t in trials if t.values is not None]
        on = sorted((p for p in points if p[0] in front), key=lambda p: p[1:])
        found.append(Front(summary.metrics[i], summary.metrics[j], tuple(p[1:] for p in points), tuple(on)))
    return [f for f in found if f.points]


def render(shown: Front) -> Figure:
    """All finished trials, and the front in another colour, named by trial."""
    figure = style.figure(style.WIDTH, 3.4)
    axes = figure.subplots()
    all_x, all_y = zip(*shown.points, strict=True)
    axes.scatter(all_x, all_y, s=18, color=style.GREY, alpha=0.6, linewidths=0, label="finished trials")
    if shown.front:
        numbers, x, y = zip(*shown.front, strict=True)
        axes.scatter(x, y, s=34, color=style.VERMILION, zorder=3, label="on the Pareto front of all objectives")
        for number, a, b in zip(numbers, x, y, strict=True):
            axes.annotate(str(number), (a, b), textcoords="offset points", xytext=(4, 4), fontsize=7)
    axes.set_xlabel(labels.label(shown.x))
    axes.set_ylabel(labels.label(shown.y))
    axes.margins(0.08)
    figure.legend(loc="outside upper right", ncols=2)
    return figure
