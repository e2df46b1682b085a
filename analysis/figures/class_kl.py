"""KL distance by class, between experts and between augmented copies of an image: Figs. 2(a) and 9.

Means over the test images of a class, in nats; symmetric, since all ordered pairs count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.classes import (
    CLASS_COLUMNS,
    NAMED,
    Classes,
    ClassLine,
    class_line,
    draw_classes,
    draw_line,
    shade,
    shade_entries,
    sort_classes,
)
from analysis.figures.common import Csv, listed, of_one_setting, omitted, palette, seeds, titles
from analysis.tables.context import Context
from ltsearch.store.records import KL_COPIES, KL_EXPERTS, FigureRequest

CAPTION = "KL distance between experts and between augmented copies, by class"
BETWEEN = {KL_EXPERTS: "between two experts", KL_COPIES: "between two copies of an image"}
# Green and blue, as in Fig. 2(a).
_BETWEEN_LOOKS = {KL_EXPERTS: style.Look(style.GREEN, "s", "-"), KL_COPIES: style.Look(style.BLUE, "o", (0, (5, 1.5)))}


@dataclass(frozen=True)
class ClassKl:
    """Lines by what lies between, one panel each, in nats. ``left_out``: rows whose classes have other sizes."""

    classes: Classes
    panels: dict[str, tuple[ClassLine, ...]]
    left_out: tuple[str, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> ClassKl | None:
    """Means over seeds; None if no run has kept its distances. A single expert has none to another."""
    classes: Classes | None = None
    lines: dict[str, list[ClassLine]] = {name: [] for name in BETWEEN}
    left_out = []
    called = titles(context)
    for row in of_one_setting(context, request):
        found: dict[str, list[NDArray[Any]]] = {name: [] for name in BETWEEN}
        own: Classes | None = None
        for _, arrays in context.finals(row):
            here = [name for name in found if name in arrays]
            if not here or (own is None and "class_counts" not in arrays):  # of a trial whose export did not have them
                continue
            own = own or sort_classes(arrays["class_counts"])
            for name in here:
                found[name].append(arrays[name])
        if own is None or not any(found.values()):
            continue
        classes = classes or _with_names(context, request, own)
        if own.sizes != classes.sizes or own.labels != classes.labels:
            left_out.append(called[row.name])
            continue
        for name, values in found.items():
            if values:
                lines[name].append(class_line(called[row.name], values, classes))
    panels = {name: tuple(made) for name, made in lines.items() if made}
    return ClassKl(classes, panels, tuple(left_out), palette(context)) if classes and panels else None


def _with_names(context: Context, request: FigureRequest, classes: Classes) -> Classes:
    for row in of_one_setting(context, request):
        for record in context.records(row).values():
            named = sort_classes(record.class_counts, record.class_names)
            if named.sizes == classes.sizes and named.labels == classes.labels:
                return named
    return classes


def render(data: ClassKl) -> Figure:
    """One panel below the other; of a single row both distances on one scale, as in Fig. 2(a). Means stand in the legends."""
    names = list(dict.fromkeys(line.row for lines in data.panels.values() for line in lines))
    few = len(data.classes.labels) <= NAMED
    if len(names) == 1:
        looks = {name: _BETWEEN_LOOKS[name] for name in data.panels}
        shown = {
            f"KL distance of {names[0]} (nats)": [(BETWEEN[n], looks[n], line) for n, (line,) in data.panels.items()]
        }
    else:
        by_row = style.looks(names, data.palette)
        shown = {
            f"KL distance (nats)\n{BETWEEN[name]}": [(line.row, by_row[line.row], line) for line in lines]
            for name, lines in data.panels.items()
        }
    longest = max(len(lines) for lines in shown.values())
    figure = style.figure(style.WIDTH, (2.4 + 0.12 * longest) * len(shown) + 0.7 + (0.5 if few else 0))
    grid = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (label, lines) in zip(grid, shown.items(), strict=True):
        shade(axes, data.classes)
        handles = [draw_line(axes, line, look, band=True) for _, look, line in lines]
        entries = [f"{name}: mean {line.average():.3f}" for name, _, line in lines]
        columns = style.columns(entries, style.WIDTH - 0.8)
        texts = [style.plain(entry) for entry in entries]
        axes.legend(handles, texts, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(style.plain(label))
    draw_classes(grid[-1], data.classes)
    style.legend(figure, *shade_entries(data.classes))
    return figure


def table(data: ClassKl) -> Csv:
    """One line for every distance, row and class, with the row's mean over classes."""
    rows: list[list[object]] = []
    for name, lines in data.panels.items():
        for line in lines:
            for at, mean in enumerate(line.mean):
                std = line.std[at] if line.std is not None else None
                rows.append([name, line.row, *data.classes.cells(at), mean, std, line.n, line.average()])
    return ["distance", "row", *CLASS_COLUMNS, "kl", "std", "seeds", "mean_over_classes"], rows


def describe(data: ClassKl) -> str:
    """Means over all classes, and over the smallest third of them."""
    count = len(data.classes.labels)
    tail = count - max(1, count // 3)
    parts = []
    for name, lines in data.panels.items():
        told = [f"“{line.row}” {line.average():.3f} ({line.average(tail):.3f})" for line in lines]
        parts.append(f"{BETWEEN[name]} {listed(told)}")
    spread = seeds(line.n for made in data.panels.values() for line in made)
    shown = f"KL distance by class for {count} classes sorted by their number of training images, mean over {spread}. "
    shown += f"Means over all classes (over the smallest third), in nats: {'; '.join(parts)}."
    return shown + omitted(data.left_out, "for their classes have other sizes")
