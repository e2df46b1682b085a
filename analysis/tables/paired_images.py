"""McNemar's test of two rows on the same test images, over all images and class by class.

Legend: ``K`` experts, ``N`` test images, ``C`` classes, ``S`` seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.images import mcnemar
from analysis.statistics.seeds import holm
from analysis.tables.context import Context
from analysis.tables.record import Column, Content, Table
from ltsearch.store.records import PairedTest, PlannedRow

HOW_TO_READ = (
    "McNemar's exact test (two-sided) on the test images that one row's run gets right and the other's of the same seed does "
    "not; counts are sums over the seeds, accuracies means. All seeds of an image change sides together, so that an image "
    "counts once however many seeds there are. It asks on which images these networks differ; how another training would turn "
    "out, the tables above say. Single: expert 0. Classes: p-values after Holm's correction over them."
)


@dataclass(frozen=True)
class Comparison:
    """Of one class, or of all images. Accuracies in percent, means over the seeds; counts are sums over them."""

    name: str
    images: int
    accuracy: float
    reference_accuracy: float
    only_row: int  # times that only the row's run gets an image right
    only_reference: int
    p: float
    p_holm: float | None = None


@dataclass(frozen=True)
class Result:
    """``overall`` and ``classes``, in the order of their labels."""

    row: str
    reference: str
    seeds: tuple[int, ...]
    overall: Comparison
    classes: tuple[Comparison, ...]


def build(context: Context, asked: PairedTest) -> Result | None:
    """None if the two rows have no common finished seed with kept predictions."""
    settings = context.settings()
    setting = asked.setting if asked.setting is not None else settings[0]
    row, reference = (context.rows([name], setting) for name in (asked.row, asked.reference))
    if not row or not reference:
        return None
    ours, theirs = (
        dict(_predictions(context, row[0], asked.seed)),
        dict(_predictions(context, reference[0], asked.seed)),
    )
    seeds = [s for s in sorted(set(ours) & set(theirs)) if asked.seed in (None, s)]
    if not seeds:
        return None
    labels, names = ours[seeds[0]][1:]
    right, reference_right = (np.stack([of[s][0] == labels for s in seeds]) for of in (ours, theirs))  # [S, N]
    classes = [_compare(names[j], right[:, labels == j], reference_right[:, labels == j]) for j in range(len(names))]
    corrected = holm([c.p for c in classes])
    classes = [replace(c, p_holm=p) for c, p in zip(classes, corrected, strict=True)]
    overall = _compare("all", right, reference_right)
    return Result(row[0].label, reference[0].label, tuple(seeds), overall, tuple(classes))


def _predictions(
    context: Context, row: PlannedRow, seed_asked: int | None
) -> list[tuple[int, tuple[NDArray[Any], NDArray[Any], list[str]]]]:
    records = context.records(row)
    found = []
    for seed, arrays in context.finals(row, seed_asked):
        predicted = arrays.predicted(row.predict)
        if predicted is not None:
            found.append((seed, (predicted, arrays["labels"], records[seed].class_names)))
    return found


def _compare(name: str, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> Comparison:
    """Of ``[S, N]`` right or wrong."""
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return Comparison(name, a.shape[1], 100 * float(a.mean()), 100 * float(b.mean()), only_a, only_b, mcnemar(a, b))


MOST_CLASSES = 20  # that are printed; the CSV has all


def to_table(result: Result, name: str, *, every: bool = False) -> Table:
    """All images, then the classes; with many of them only those with a corrected p below 0.05, unless ``every``."""
    columns = (
        Column("class", ""),
        Column("images", "images", format="d"),
        Column("accuracy", result.row),
        Column("reference_accuracy", result.reference),
        Column("only_row", f"only {result.row} right", format="d"),
        Column("only_reference", f"only {result.reference} right", format="d"),
        Column("p", "p", format=".3g"),
        Column("p_holm", "p (Holm)", format=".3g"),
    )
    many = len(result.classes) > MOST_CLASSES and not every
    shown = [c for c in result.classes if not many or (c.p_holm is not None and c.p_holm < 0.05)]
    notes = (
        [f"{len(shown)} of {len(result.classes)} classes differ after correction; only they are shown."] if many else []
    )
    seeds = f"seed{'s' if len(result.seeds) > 1 else ''} {', '.join(map(str, result.seeds))}"
    caption = f"{result.row} against {result.reference}, {seeds}, by class"
    return Table(name, caption, columns, _rows([result.overall, *shown]), tuple(notes))


def _rows(comparisons: Sequence[Comparison]) -> tuple[tuple[Content, ...], ...]:
    return tuple(
        (c.name, c.images, c.accuracy, c.reference_accuracy, c.only_row, c.only_reference, c.p, c.p_holm)
        for c in comparisons
    )
