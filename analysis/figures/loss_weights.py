"""The loss weights λ1 (IntraCL) and λ2 (InterCL) over epochs, learned or fixed: Table 6."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures import style
from analysis.figures.common import Csv, listed, of_one_setting, palette, seeds, titles
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.context import Context
from ltsearch.store.records import TRAIN, CellRecord, FigureRequest

CAPTION = "Loss weights over epochs"
WEIGHTS = {"lambda_intra": "λ1 (IntraCL)", "lambda_inter": "λ2 (InterCL)"}
_CONSTANT = 1e-6  # a weight that moves less is fixed
_APART = 0.2  # seeds that end further from each other have no common course: their mean is a weight that no run has


@dataclass(frozen=True)
class Line:
    """One weight of one row: values by seed and epoch, and their mean by epoch. ``learned``: it changes."""

    row: str
    learned: bool
    seeds: dict[int, dict[int, float]]
    points: tuple[tuple[int, Summary], ...]

    def at(self, epoch: int) -> list[float]:
        """Values of the seeds that have the epoch."""
        return [values[epoch] for values in self.seeds.values() if epoch in values]

    @property
    def apart(self) -> bool:
        """Do the seeds end at different weights?"""
        last = self.at(self.points[-1][0])
        return max(last) - min(last) > _APART


@dataclass(frozen=True)
class LossWeights:
    """Lines by weight (``lambda_intra``, ``lambda_inter``), one panel each."""

    panels: dict[str, tuple[Line, ...]]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> LossWeights | None:
    """None if no run has logged a weight."""
    lines: dict[str, list[Line]] = {weight: [] for weight in WEIGHTS}
    for row in of_one_setting(context, request):
        records = context.records(row)
        for weight, made in lines.items():
            line = _line(titles(context)[row.name], records, TRAIN + weight)
            if line is not None:
                made.append(line)
    panels = {weight: tuple(made) for weight, made in lines.items() if made}
    return LossWeights(panels, palette(context)) if panels else None


def _line(row: str, records: Mapping[int, CellRecord], metric: str) -> Line | None:
    by_seed = {
        seed: {epoch.epoch: epoch.metrics[metric] for epoch in record.history if metric in epoch.metrics}
        for seed, record in records.items()
    }
    by_seed = {seed: values for seed, values in by_seed.items() if values}
    learned = any(max(values.values()) - min(values.values()) > _CONSTANT for values in by_seed.values())
    points = []
    for epoch in sorted({epoch for values in by_seed.values() for epoch in values}):
        summary = summarize([values[epoch] for values in by_seed.values() if epoch in values])
        if summary is not None:
            points.append((epoch, summary))
    return Line(row, learned, by_seed, tuple(points)) if points else None


def render(data: LossWeights) -> Figure:
    """A panel a weight: means, of learned weights also every seed with the range between them; fixed ones are dashed.

    Where seeds end far apart every one of them is drawn as a mean otherwise is, and the mean is not.
    """
    everything = [line for lines in data.panels.values() for line in lines]
    names = list(dict.fromkeys(line.row for line in everything))
    looks = style.looks(names, data.palette)
    apart = {line.row for line in everything if line.apart}
    entries = [_entry(line, apart) for line in everything]
    width = style.WIDTH if len(data.panels) > 1 else 4.6
    figure = style.figure(width, 2.6 + 0.18 * -(-len(names) // style.columns(entries, width)))
    grid = figure.subplots(1, len(data.panels), squeeze=False, sharey=True)[0]
    handles: dict[str, Any] = {}
    for axes, (weight, lines) in zip(grid, data.panels.items(), strict=True):
        for line in lines:
            epochs = np.asarray([epoch for epoch, _ in line.points])
            mean = {epoch: summary.mean for epoch, summary in line.points}
            look = looks[line.row]
            if line.learned and len(line.seeds) > 1 and not line.apart:
                low, high = zip(*((min(line.at(e)), max(line.at(e))) for e, _ in line.points), strict=True)
                axes.fill_between(epochs, low, high, color=look.colour, alpha=0.12, linewidth=0)
                for values in line.seeds.values():
                    axes.plot([*values], [*values.values()], color=look.colour, linewidth=0.7)
            for values in line.seeds.values() if line.apart else [mean]:
                (handle,) = axes.plot(
                    [*values],
                    [*values.values()],
                    color=look.colour,
                    linestyle="-" if line.learned else (0, (5, 2)),
                    marker=look.marker,
                    markevery=_markers([*values], names.index(line.row)),
                )
                handles.setdefault(_entry(line, apart), handle)
        axes.set_title(WEIGHTS[weight])
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0].set_ylabel("weight")
    grid[0].set_ylim(bottom=0)
    style.legend(figure, list(handles.values()), list(handles))
    return figure


def _entry(line: Line, apart: Collection[str]) -> str:
    return f"{line.row}: {'learned' if line.learned else 'fixed'}" + (", every seed" if line.row in apart else "")


def _markers(epochs: Sequence[int], number: int) -> list[int]:
    """About five markers a line, not at the same epochs as those of the line before."""
    step = max(1, len(epochs) // 5)
    return list(range((number * step // 3) % step, len(epochs), step))


def table(data: LossWeights) -> Csv:
    """One line for every weight, row, epoch and seed, with the epoch's mean."""
    header = ["weight", "row", "learned", "epoch", "seed", "value", "mean", "std", "seeds"]
    rows: list[list[object]] = []
    for weight, lines in data.panels.items():
        for line in lines:
            for epoch, s in line.points:
                for seed, values in line.seeds.items():
                    if epoch in values:
                        rows.append([weight, line.row, line.learned, epoch, seed, values[epoch], s.mean, s.std, s.n])
    return header, rows


def describe(data: LossWeights) -> str:
    """First and last value of every weight."""
    parts = []
    for weight, lines in data.panels.items():
        told = []
        for line in lines:
            (start, first), (end, last) = line.points[0], line.points[-1]
            reached = listed([f"{value:.3f}" for value in line.at(end)]) if line.apart else f"{last.mean:.3f}"
            moved = f"“{line.row}” from {first.mean:.3f} in epoch {start} to {reached} in epoch {end}"
            if line.apart:
                moved += " (by seed, which end apart)"
            elif len(line.at(end)) > 1:
                moved += f" (seeds {min(line.at(end)):.3f} to {max(line.at(end)):.3f})"
            told.append(moved if line.learned else f"“{line.row}” fixed at {last.mean:.3f}")
        parts.append(f"{WEIGHTS[weight]}: {listed(told)}")
    spread = seeds(s.n for lines in data.panels.values() for line in lines for _, s in line.points)
    return f"Loss weights over epochs, mean over {spread}. {'. '.join(parts)}."
