"""Learning curves: every metric of an epoch over epochs, mean over seeds with the band between the extreme ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.common import Csv, listed, of_one_setting, palette, seeds, titles
from analysis.read import labels
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.context import Context
from ltsearch.store.records import CLASS_MEAN, TEST, TRAIN, VAL, CellRecord, FigureRequest

CAPTION = "Learning curves: mean over seeds, the band from the lowest to the highest of them"
METRICS = (f"{TRAIN}loss", f"{TRAIN}top1", f"{VAL}single_{CLASS_MEAN}", f"{TEST}single_{CLASS_MEAN}")
_MOST = 8  # rows that can still be told apart


@dataclass(frozen=True)
class Line:
    """One metric of one row: by epoch the mean and the extremes over seeds, in percent where it is an accuracy."""

    row: str
    epochs: tuple[int, ...]
    points: tuple[Summary, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Lines by metric, a panel each. ``left_out``: rows beyond the ``_MOST`` first."""

    panels: dict[str, tuple[Line, ...]]
    left_out: tuple[str, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> Curves | None:
    """Of the metrics that were logged in more than one epoch; None if none was."""
    panels: dict[str, list[Line]] = {metric: [] for metric in METRICS}
    rows = of_one_setting(context, request)
    called = titles(context)
    for row in rows[:_MOST]:
        records = context.records(row)
        for metric, lines in panels.items():
            line = _line(called[row.name], records, metric)
            if line is not None:
                lines.append(line)
    found = {metric: tuple(lines) for metric, lines in panels.items() if lines}
    return Curves(found, tuple(called[row.name] for row in rows[_MOST:]), palette(context)) if found else None


def _line(row: str, records: Mapping[int, CellRecord], metric: str) -> Line | None:
    scale = labels.scale(metric)
    by_epoch: dict[int, list[float]] = {}
    for record in records.values():
        for epoch in record.history:
            if metric in epoch.metrics:
                by_epoch.setdefault(epoch.epoch, []).append(scale * epoch.metrics[metric])
    if len(by_epoch) < 2:
        return None
    epochs = sorted(by_epoch)
    points = [summary for epoch in epochs if (summary := summarize(by_epoch[epoch])) is not None]
    extremes = [(min(by_epoch[epoch]), max(by_epoch[epoch])) for epoch in epochs]
    return Line(
        row, tuple(epochs), tuple(points), tuple(low for low, _ in extremes), tuple(high for _, high in extremes)
    )


def render(data: Curves) -> Figure:
    """A panel a metric."""
    names = list(dict.fromkeys(line.row for lines in data.panels.values() for line in lines))
    looks = style.looks(names, data.palette)
    columns = min(2, len(data.panels))
    down = -(-len(data.panels) // columns)
    width = style.WIDTH if columns > 1 else 4.6
    figure = style.figure(width, 2.5 * down + 0.2 * -(-len(names) // style.columns(names, width)))
    grid = figure.subplots(down, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for number, axes in enumerate(grid.flat):
        if number >= len(data.panels):
            axes.set_axis_off()
            continue
        metric, lines = list(data.panels.items())[number]
        for at, line in enumerate(lines):
            look, step = looks[line.row], max(1, len(line.epochs) // 5)
            axes.fill_between(line.epochs, line.low, line.high, color=look.colour, alpha=0.15, linewidth=0)
            (handles[line.row],) = axes.plot(
                line.epochs,
                [point.mean for point in line.points],
                color=look.colour,
                linestyle=look.line,
                marker=look.marker,
                markevery=(at * step // len(lines), step),
            )
        axes.set_title(labels.label(metric))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def table(data: Curves) -> Csv:
    """One line for every metric, row and epoch."""
    header = ["metric", "row", "epoch", "mean", "std", "low", "high", "seeds"]
    rows: list[list[object]] = []
    for metric, lines in data.panels.items():
        for line in lines:
            for epoch, point, low, high in zip(line.epochs, line.points, line.low, line.high, strict=True):
                rows.append([metric, line.row, epoch, point.mean, point.std, low, high, point.n])
    return header, rows


def describe(data: Curves) -> str:
    """First and last mean of every line."""
    parts = []
    for metric, lines in data.panels.items():
        told = [
            f"“{line.row}” from {line.points[0].mean:.4g} in epoch {line.epochs[0]} to {line.points[-1].mean:.4g} in "
            f"epoch {line.epochs[-1]}"
            for line in lines
        ]
        parts.append(f"{labels.label(metric)}: {listed(told)}")
    spread = seeds(point.n for lines in data.panels.values() for line in lines for point in line.points)
    rest = f" Not drawn, too many to tell apart: {listed(data.left_out)}." if data.left_out else ""
    return f"Learning curves, mean over {spread}. {'. '.join(parts)}.{rest}"
