"""Replayed searches (``ltsearch replay``): how near each kind has come to the best of the space after how many epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import style

SPLITS = ("val/", "train/top1")  # accuracies
SHARES = np.linspace(0.0, 1.0, 101)


def draw(progress: Path, to: Path, metric: str, tolerance: float) -> None:
    """``<to>.png`` and ``<to>.svg`` from the table ``replay_progress.csv``."""
    with style.style():
        made = render(pd.read_csv(progress), metric, tolerance)
    style.save(made, to)


def medians(lines: pd.DataFrame) -> np.ndarray:
    """The median gap over searches after every share of the epochs in ``SHARES``; infinite before half of them have a trial.

    A search that is over keeps what it has; one that has found nothing yet has its begin (share 0, infinite) among the lines.
    """
    found = []
    for _, its in lines.groupby("search"):
        its = its.sort_values("share")
        at = np.searchsorted(its["share"].to_numpy(), SHARES, side="right")
        found.append(its["gap"].to_numpy()[at - 1])
    # The lower of the two in the middle: a mean of them would be infinite, or nothing that a search has found.
    gap: np.ndarray = np.quantile(np.array(found), 0.5, axis=0, method="inverted_cdf")
    return gap


def render(lines: pd.DataFrame, metric: str, tolerance: float) -> Figure:
    """A panel a sampler, a line a rule; dashed: what counts as close. Shares of images in points, other metrics as they are."""
    unit, name = (100, "points") if metric.startswith(SPLITS) else (1, metric)
    samplers: Sequence[str] = list(dict.fromkeys(lines["sampler"]))
    rules: Sequence[str] = list(dict.fromkeys(lines["early_stopping"]))
    looks = style.looks(rules)
    made = style.figure(min(style.WIDTH, 0.6 + style.PANEL[0] * len(samplers)), style.PANEL[1] + 0.3)
    handles = {}
    panels = made.subplots(1, len(samplers), sharey=True, squeeze=False)[0]
    for axes, sampler in zip(panels, samplers, strict=True):
        for rule in rules:
            its = lines[(lines["sampler"] == sampler) & (lines["early_stopping"] == rule)]
            if its.empty:
                continue
            gap = medians(its)
            shown = np.isfinite(gap)
            (handles[rule],) = axes.step(
                100 * SHARES[shown],
                unit * gap[shown],
                where="post",
                color=looks[rule].colour,
                linestyle=looks[rule].line,
            )
        axes.axhline(unit * tolerance, color=style.GREY, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.set_title(style.plain(sampler))
        axes.set_xlabel("epochs (% of the whole space)")
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel(f"to the best ({name}, median)")
    style.legend(made, list(handles.values()), list(handles))
    return made
