"""Virtual examples a class, by shot group, beside the training images: Figs. 1, 4, 5 and 6 of DiVE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.classes import sort_classes
from analysis.figures.common import SPLITS, Csv, listed, of_one_setting, palette, seeds, titles
from analysis.read.selection import value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.context import Context
from ltsearch.store.records import GROUPS, TRAIN, FigureRequest

CAPTION = "Average number of virtual examples a class, by shot group"
INPUT = "INPUT"


@dataclass(frozen=True)
class VirtualExamples:
    """Numbers a class by row and group; the first row are the training images themselves."""

    groups: tuple[str, ...]
    rows: dict[str, dict[str, Summary]]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> VirtualExamples | None:
    """Mean and spread over seeds; None if no row has a virtual-example distribution."""
    called = titles(context)
    found: dict[str, dict[str, Summary]] = {}
    for row in of_one_setting(context, request):
        runs = context.runs(row).values()
        numbers = {
            g: summarize([v for run in runs if (v := value(run, f"{TRAIN}virtual_{g}")) is not None]) for g in GROUPS
        }
        there = {group: summary for group, summary in numbers.items() if summary is not None}
        if not there:
            continue
        if not found:
            found[INPUT] = _training_images([r.class_counts for r in context.records(row).values()][:1])
        found[called[row.name]] = there
    groups = tuple(group for group in GROUPS if any(group in numbers for numbers in found.values()))
    return VirtualExamples(groups, found, palette(context)) if groups else None


def _training_images(counts: Sequence[list[int]]) -> dict[str, Summary]:
    shown = sort_classes(counts[0] if counts else [])
    averages = {group: sum(shown.sizes[a:b]) / (b - a) for group, (a, b) in shown.spans().items()}
    return {group: summary for group, n in averages.items() if (summary := summarize([n]))}


def render(data: VirtualExamples) -> Figure:
    """Groups side by side, a bar a row."""
    colours = {INPUT: style.BLACK, **style.colours([row for row in data.rows if row != INPUT], data.palette)}
    figure = style.figure(style.WIDTH, 3.0 + 0.18 * len(data.rows) / 3)
    axes = figure.subplots()
    width = 0.8 / len(data.rows)
    handles = []
    for at, (row, numbers) in enumerate(data.rows.items()):
        x = [g + (at - (len(data.rows) - 1) / 2) * width for g, name in enumerate(data.groups) if name in numbers]
        shown = [numbers[name] for name in data.groups if name in numbers]
        height, spread = [s.mean for s in shown], [s.std or 0.0 for s in shown]
        handles.append(axes.bar(x, height, width, yerr=spread, color=colours[row], error_kw={"elinewidth": 1.0}))
    axes.set_xticks(range(len(data.groups)), [SPLITS[group] for group in data.groups])
    axes.set_ylabel("(virtual) examples a class")
    axes.grid(False, axis="x")
    style.legend(figure, handles, list(data.rows))
    return figure


def table(data: VirtualExamples) -> Csv:
    """One line for every row and group."""
    rows: list[list[object]] = [
        [row, group, s.mean, s.std, s.n] for row, numbers in data.rows.items() for group, s in numbers.items()
    ]
    return ["row", "group", "examples", "std", "seeds"], rows


def describe(data: VirtualExamples) -> str:
    """Every number."""
    told = [
        f"“{row}” " + listed([f"{s.mean:.1f} in {group}-shot" for group, s in numbers.items()])
        for row, numbers in data.rows.items()
    ]
    spread = seeds(s.n for row, numbers in data.rows.items() if row != INPUT for s in numbers.values())
    return f"Average number of training images (INPUT) and of virtual examples a class, mean over {spread}: {'; '.join(told)}."
