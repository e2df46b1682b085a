"""The axis of figures that show every class: classes sorted by their number of training images, and shot groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from analysis.figures import style
from ltsearch.store.records import GROUPS

NAMED = 20  # up to so many classes, the axis has their names
_SHADES = {"many": "#FFFFFF", "medium": "#F1F1F1", "few": "#E1E1E1"}
_MEANING = {"many": "many: > 100 images", "medium": "medium: 20 to 100", "few": "few: < 20"}


@dataclass(frozen=True)
class Classes:
    """Classes from the one with most training images to the one with fewest; equal ones in the order of their labels."""

    labels: tuple[int, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # training images

    def group(self, at: int) -> str:
        """Shot group of the class at a position."""
        size = self.sizes[at]
        return "many" if size > 100 else "few" if size < 20 else "medium"

    def spans(self) -> dict[str, tuple[int, int]]:
        """First position of every shot group that has classes, and the one after its last."""
        groups = [self.group(at) for at in range(len(self.sizes))]
        return {
            name: (groups.index(name), groups.index(name) + groups.count(name)) for name in GROUPS if name in groups
        }

    def cells(self, at: int) -> list[object]:
        """What a CSV says of a class, under ``CLASS_COLUMNS``."""
        return [at + 1, self.labels[at], self.names[at], self.sizes[at], self.group(at)]


CLASS_COLUMNS = ["rank", "class", "class_name", "training_images", "group"]


def sort_classes(counts: Sequence[int] | NDArray[Any], names: Sequence[str] = ()) -> Classes:
    """Sort classes by size. Without a name for each, they are called by their labels."""
    sizes = np.asarray(counts).astype(np.int64)
    order = [int(i) for i in np.argsort(-sizes, kind="stable")]
    called = [str(name) for name in names] if len(names) == len(sizes) else [f"class {i}" for i in range(len(sizes))]
    return Classes(tuple(order), tuple(called[i] for i in order), tuple(int(sizes[i]) for i in order))


@dataclass(frozen=True)
class ClassLine:
    """Of one row: mean over ``n`` seeds and sample std (None for one seed), by class as sorted; None: no test images."""

    row: str
    n: int
    mean: tuple[float | None, ...]
    std: tuple[float | None, ...] | None

    def average(self, start: int = 0, end: int | None = None) -> float:
        """Mean over the classes from one position to another; NaN without any."""
        found = [v for v in self.mean[start:end] if v is not None]
        return sum(found) / len(found) if found else float("nan")


def class_line(row: str, by_seed: Sequence[Sequence[float | None] | NDArray[Any]], classes: Classes) -> ClassLine:
    """Sum up values ``[C]`` of every seed; None or NaN is an absent value."""
    stacked = np.asarray(by_seed, dtype=float)[:, list(classes.labels)]  # [seeds, C]
    there = ~np.isnan(stacked)
    n = there.sum(0)
    mean = np.where(there, stacked, 0.0).sum(0) / np.maximum(n, 1)
    mean[n == 0] = np.nan
    squares = np.where(there, (stacked - mean) ** 2, 0.0).sum(0)
    std = np.sqrt(squares / np.maximum(n - 1, 1))
    std[n < 2] = np.nan
    return ClassLine(row, len(stacked), _optional(mean), _optional(std) if len(stacked) > 1 else None)


def _optional(values: NDArray[Any]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(v) else float(v) for v in values)


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw_line(axes: Axes, line: ClassLine, look: style.Look, *, band: bool) -> Any:
    """Draw one row over the classes, ``band``: ± std. Returns the handle for a legend."""
    at = np.arange(1, len(line.mean) + 1)
    mean = np.asarray(line.mean, dtype=float)
    named = len(at) <= NAMED
    if band and line.std is not None:
        std = np.asarray(line.std, dtype=float)
        axes.fill_between(at, np.maximum(mean - std, 0), mean + std, color=look.colour, alpha=0.18, linewidth=0)
    (handle,) = axes.plot(
        at,
        mean,
        color=look.colour,
        marker=look.marker,
        linestyle=look.line,
        linewidth=1.4 if named else 0.9,
        markersize=5 if named else 2.6,
    )
    return handle


def draw_classes(axes: Axes, classes: Classes) -> None:
    """Label the horizontal axis: names of few classes, ranks of many."""
    count = len(classes.labels)
    axes.set_xlim(0.4, count + 0.6)
    if count <= NAMED:
        axes.set_xticks(range(1, count + 1), [style.plain(shortened(name)) for name in classes.names])
        slant(axes)
        axes.set_xlabel("class, most training images first")
    else:
        step = max(1, round(count / 10 / 5) * 5)
        axes.set_xticks([1, *range(step, count + 1, step)])
        axes.set_xlabel("rank of the class by training images (1: most)")


def draw_sizes(axes: Axes, classes: Classes) -> None:
    """The number of training images of every class, on a logarithmic scale."""
    edges = np.arange(len(classes.sizes) + 1) + 0.5
    axes.stairs(np.maximum(classes.sizes, 0.5), edges, fill=True, baseline=0.5, color="#AAAAAA")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.8)
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_ylabel("training\nimages")


def shade(axes: Axes, classes: Classes) -> None:
    """Put the shot groups behind the lines."""
    for group, (start, end) in classes.spans().items():
        axes.axvspan(start + 0.5, end + 0.5, color=_SHADES[group], zorder=0, linewidth=0)


def shade_entries(classes: Classes) -> tuple[list[Any], list[str]]:
    """Handles and texts of the shot groups for a legend."""
    there = list(classes.spans())
    return [Patch(facecolor=_SHADES[g], edgecolor="#BBBBBB", linewidth=0.6) for g in there], [
        _MEANING[g] for g in there
    ]


def slant(axes: Axes) -> None:
    """Turn long labels of the horizontal axis."""
    axes.tick_params(axis="x", labelrotation=40)
    for tick in axes.get_xticklabels():
        tick.set_horizontalalignment("right")
        tick.set_rotation_mode("anchor")


def shortened(text: str, most: int = 20) -> str:
    """At most so many letters, the middle left out: names differ at their ends, too."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most - most // 2 - 1) :]}"
