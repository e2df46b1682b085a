"""Accuracy of every class, classes sorted by their number of training images: Fig. 8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.figures.classes import (
    CLASS_COLUMNS,
    NAMED,
    Classes,
    ClassLine,
    class_line,
    draw_classes,
    draw_line,
    draw_sizes,
    shade,
    shade_entries,
    sort_classes,
)
from analysis.figures.common import PREDICT, Csv, listed, of_one_setting, omitted, palette, predictions, seeds, titles
from analysis.tables.context import Context
from ltsearch.store.records import TEST, FigureRequest

CAPTION = "Accuracy of every class, sorted by the number of training images"


@dataclass(frozen=True)
class ClassAccuracy:
    """Lines by prediction, one panel each, in percent. ``left_out``: rows whose classes have other sizes."""

    classes: Classes
    panels: dict[str, tuple[ClassLine, ...]]
    left_out: tuple[str, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> ClassAccuracy | None:
    """Means over seeds; None if no run has accuracies by class."""
    rows = of_one_setting(context, request)
    asked = predictions(context, rows, request.predict)
    classes: Classes | None = None
    lines: dict[str, list[ClassLine]] = {predict: [] for predict in asked}
    left_out = []
    called = titles(context)
    for row in rows:
        records = [r for r in context.records(row).values() if r.class_counts and r.per_class]
        if not records:
            continue
        own = sort_classes(records[0].class_counts, records[0].class_names)
        classes = classes or own
        if own.sizes != classes.sizes or own.labels != classes.labels:
            left_out.append(called[row.name])
            continue
        for predict in asked:
            found = [r.per_class[TEST + predict] for r in records if TEST + predict in r.per_class]
            if found:
                lines[predict].append(class_line(called[row.name], [_percent(values) for values in found], classes))
    panels = {predict: tuple(made) for predict, made in lines.items() if made}
    return ClassAccuracy(classes, panels, tuple(left_out), palette(context)) if classes and panels else None


def _percent(values: Sequence[float | None]) -> list[float | None]:
    return [None if v is None else 100 * v for v in values]


def render(data: ClassAccuracy) -> Figure:
    """One panel a prediction, and the class sizes below."""
    names = list(dict.fromkeys(line.row for lines in data.panels.values() for line in lines))
    looks = style.looks(names, data.palette)
    few = len(data.classes.labels) <= NAMED
    figure = style.figure(style.WIDTH, 2.4 * len(data.panels) + 1.2 + 0.6 + (0.5 if few else 0) + 0.18 * len(names) / 2)
    heights = [2.4] * len(data.panels) + [0.9]
    grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    handles: dict[str, Any] = {}
    for axes, (predict, lines) in zip(grid, data.panels.items(), strict=False):
        shade(axes, data.classes)
        for line in lines:
            handles.setdefault(line.row, draw_line(axes, line, looks[line.row], band=False))
        highest = max((v for line in lines for v in line.mean if v is not None), default=100.0)
        axes.set_ylim(-2, max(10.0, min(102.0, 1.1 * highest)))
        axes.set_ylabel(f"accuracy (%)\n{PREDICT[predict]}")
    shade(grid[-1], data.classes)
    draw_sizes(grid[-1], data.classes)
    draw_classes(grid[-1], data.classes)
    shades, meanings = shade_entries(data.classes)
    style.legend(figure, [*handles.values(), *shades], [*handles, *meanings])
    return figure


def table(data: ClassAccuracy) -> Csv:
    """One line for every prediction, row and class. Accuracies in percent."""
    rows: list[list[object]] = []
    for predict, lines in data.panels.items():
        for line in lines:
            for at, mean in enumerate(line.mean):
                std = line.std[at] if line.std is not None else None
                rows.append([predict, line.row, *data.classes.cells(at), mean, std, line.n])
    return ["predict", "row", *CLASS_COLUMNS, "accuracy", "std", "seeds"], rows


def describe(data: ClassAccuracy) -> str:
    """Means over the classes of every shot group."""
    predict, lines = next(iter(data.panels.items()))
    spans = data.classes.spans()
    sizes = data.classes.sizes
    parts = [
        f"“{line.row}” {listed([f'{line.average(*span):.1f} in {group}-shot' for group, span in spans.items()])}"
        for line in lines
    ]
    spread = seeds(line.n for made in data.panels.values() for line in made)
    shown = f"Test accuracy of {len(sizes)} classes, sorted from {sizes[0]} to {sizes[-1]} training images "
    shown += f"({PREDICT[predict]}, mean over {spread}). Means over classes, in percent: {'; '.join(parts)}."
    return shown + omitted(data.left_out, "for their classes have other sizes")
