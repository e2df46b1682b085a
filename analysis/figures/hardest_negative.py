"""How sure a network is of the strongest wrong class: Fig. 11(a)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.common import Csv, listed, of_one_setting, palette, seeds, titles
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest

CAPTION = "Probability of the hardest negative class"
BINS = 20
HIGH = 0.4  # the paper: scores of NCL++ “are mainly concentrated in the range of 0–0.4”


@dataclass(frozen=True)
class Scores:
    """Of one row, pooled over its seeds and their experts: ``images`` predictions in all.

    ``shares`` of images by bin (they add up to 1), the mean score and the share of images above ``HIGH``.
    """

    row: str
    seeds: int
    images: int
    shares: tuple[float, ...]
    mean: float
    above: float


@dataclass(frozen=True)
class HardestNegative:
    """Rows over the same ``edges``, one more than bins."""

    edges: tuple[float, ...]
    rows: tuple[Scores, ...]
    palette: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> HardestNegative | None:
    """Histograms; None if no run has kept its logits. The five largest, all that large sets keep, do not define them."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    rows = []
    for row in of_one_setting(context, request):
        found = []
        for _, arrays in context.finals(row):
            scores = arrays.hardest_negative()
            if scores is not None:
                found.append(scores.astype(np.float64).ravel())
        if found:
            rows.append(_summed_up(titles(context)[row.name], found, edges))
    return HardestNegative(tuple(float(e) for e in edges), tuple(rows), palette(context)) if rows else None


def _summed_up(row: str, by_seed: Sequence[NDArray[np.float64]], edges: NDArray[np.float64]) -> Scores:
    pooled = np.concatenate(by_seed)
    counts, _ = np.histogram(pooled, edges)
    shares = tuple(float(c) for c in counts / len(pooled))
    return Scores(row, len(by_seed), len(pooled), shares, float(pooled.mean()), float((pooled > HIGH).mean()))


def render(data: HardestNegative) -> Figure:
    """Steps, one line a row; mean and share above ``HIGH`` stand in the legend."""
    looks = style.looks([row.row for row in data.rows], data.palette)
    entries = [f"{row.row}: mean {row.mean:.3f}, {100 * row.above:.1f} % above {HIGH:g}" for row in data.rows]
    figure = style.figure(5.2, 2.9 + 0.18 * len(entries))
    axes = figure.subplots()
    handles = []
    for row in data.rows:
        look = looks[row.row]
        axes.stairs(100 * np.asarray(row.shares), data.edges, color=look.colour, linestyle=look.line, linewidth=1.6)
        handles.append(Line2D([], [], color=look.colour, linestyle=look.line))
    axes.axvline(HIGH, color=style.GREY, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("probability of the strongest class other than the label")
    axes.set_ylabel("share of test images (%)")
    style.legend(figure, handles, entries)
    return figure


def table(data: HardestNegative) -> Csv:
    """One line for every row and bin; shares and means as fractions."""
    header = ["row", "bin_start", "bin_end", "share", "mean", f"share_above_{HIGH:g}", "predictions", "seeds"]
    rows: list[list[object]] = []
    for row in data.rows:
        for start, end, share in zip(data.edges[:-1], data.edges[1:], row.shares, strict=True):
            rows.append([row.row, start, end, share, row.mean, row.above, row.images, row.seeds])
    return header, rows


def describe(data: HardestNegative) -> str:
    """Mean and share above ``HIGH`` of every row."""
    told = [f"“{row.row}” mean {row.mean:.3f} with {100 * row.above:.1f} % above {HIGH:g}" for row in data.rows]
    return (
        "Histogram of the probability that a network gives to the strongest wrong class of a test image, over all images, "
        f"experts and {seeds(row.seeds for row in data.rows)}: {listed(told)}."
    )
