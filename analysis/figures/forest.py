"""Differences to the reference: a forest plot, with the table's intervals and a dot for every seed."""

from __future__ import annotations

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.common import Csv, listed, palette, titles
from analysis.markdown import difference
from analysis.statistics.seeds import Difference
from analysis.tables.ablation import percent
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest, headline

CAPTION = "Differences to the reference, with 95 % intervals that hold for all at once and a dot for every seed"
_COLUMNS = 2  # panels side by side
_LETTER = 0.068  # inches


@dataclass(frozen=True)
class Line:
    """One row: its difference, and by seed its accuracy minus the reference's mean, in points."""

    row: str
    title: str  # what its trials are called in figures
    predict: str
    difference: Difference
    seeds: dict[int, float]


@dataclass(frozen=True)
class Panel:
    """One table."""

    title: str
    reference: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Forest:
    """Panels with at least one line."""

    panels: tuple[Panel, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> Forest | None:
    """None if no row has a difference to a reference."""
    panels, called = [], titles(context)
    for table in context.tables:
        if request.setting not in (None, table.setting):
            continue
        planned = {row.name: row for row in table.planned}
        means = {row.name: row.accuracy.mean for row in table.rows if row.accuracy is not None}
        lines = []
        for row in table.rows:
            if row.difference is None or (request.rows and row.name not in request.rows):
                continue
            values = percent(table.selection.runs[row.name], headline(planned[row.name].predict))
            by_seed = {seed: value - means[table.reference] for seed, value in values.items()}
            lines.append(Line(row.name, called[row.name], row.predict, row.difference, by_seed))
        if lines:
            panels.append(Panel(table.subset, table.reference, tuple(lines)))
    return Forest(tuple(panels), palette(context)) if panels else None


def render(data: Forest) -> Figure:
    """Rows from top to bottom; the mean (of an ensemble open) with its interval, and seeds as small open dots above it."""
    columns = min(_COLUMNS, len(data.panels))
    down = -(-len(data.panels) // columns)
    most = max(len(panel.lines) for panel in data.panels)
    named = _LETTER * max(len(line.row) for panel in data.panels for line in panel.lines)
    figure = style.figure(max(4.6, columns * (named + 3.0)), (0.9 + 0.3 * most) * down + 0.35)
    grid = figure.subplots(down, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number < len(data.panels):
            _panel(axes, data.panels[number], data)
        else:
            axes.set_axis_off()
    handles = [
        Line2D([], [], color=style.BLACK, marker="o", linewidth=1.4),
        Line2D([], [], color=style.BLACK, marker="o", markerfacecolor="none", linestyle="none", markersize=3.5),
    ]
    style.legend(figure, handles, ["mean with its 95 % interval", "one seed"])
    return figure


def _panel(axes: Axes, panel: Panel, data: Forest) -> None:
    looks = style.looks([line.title for line in panel.lines], data.palette)
    for y, line in enumerate(panel.lines):
        look = looks[line.title]
        colour, face = look.colour, look.colour if line.predict == "single" else "white"
        if line.difference.interval is not None:
            axes.plot(line.difference.interval, [y, y], color=colour, linewidth=1.4, solid_capstyle="butt")
        axes.plot([line.difference.mean], [y], color=colour, marker=look.marker, markerfacecolor=face, linestyle="none")
        values = list(line.seeds.values())
        axes.plot(
            values,
            [y - 0.28] * len(values),
            color=colour,
            marker="o",
            markersize=3.5,
            markerfacecolor="none",
            linestyle="none",
        )
    axes.axvline(0, color=style.GREY, linewidth=0.8)
    axes.set_yticks(range(len(panel.lines)), [style.plain(line.row) for line in panel.lines])
    axes.set_ylim(len(panel.lines) - 0.5, -0.6)
    axes.set_xlabel(f"difference to {style.plain(panel.reference)} (points)")
    axes.set_title(style.plain(panel.title))


def table(data: Forest) -> Csv:
    """One line for every panel, row and seed, with the row's difference and interval."""
    header = ["setting", "row", "reference", "seed", "to_reference_mean", "difference", "low", "high", "p"]
    rows: list[list[object]] = []
    for panel in data.panels:
        for line in panel.lines:
            low, high = line.difference.interval or (None, None)
            for seed, value in line.seeds.items():
                rows.append(
                    [
                        panel.title,
                        line.row,
                        panel.reference,
                        seed,
                        value,
                        line.difference.mean,
                        low,
                        high,
                        line.difference.p,
                    ]
                )
    return header, rows


def describe(data: Forest) -> str:
    """Every difference as the table has it."""
    parts = []
    for panel in data.panels:
        told = listed([f"“{line.row}” {difference(line.difference)}" for line in panel.lines])
        parts.append(f"{panel.title + ', ' if panel.title else ''}to “{panel.reference}”: {told}")
    return f"Forest plot of differences in points, {'; '.join(parts)}."
