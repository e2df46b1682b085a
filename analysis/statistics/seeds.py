"""Statistics over seeds: mean and spread, differences of what the same trials say, Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

ALPHA = 0.05
MIN_SEEDS = 3  # with fewer nothing is claimed


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1; None for n < 2) of ``n`` values, in their unit.

    ``planned``: how many there should be, set only where some are missing and the cell has to show it. ``seeds``: the values
    by seed, where they are known.
    """

    mean: float
    std: float | None
    n: int
    planned: int | None = None
    seeds: Mapping[int, float] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Difference:
    """A difference, value minus reference, in the values' unit, of ``n`` seeds.

    ``interval``: 95 %, of all of its family at once. ``p``: corrected for its family. Both None where nothing is claimed: fewer
    than 3 seeds, or no spread at all.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    p: float | None = None

    @property
    def significant(self) -> bool | None:
        """Is p below 0.05? None where nothing is claimed."""
        return None if self.p is None else self.p < ALPHA


def summarize(values: Sequence[float] | Mapping[int, float]) -> Summary | None:
    """Mean ± std of values, which may come by seed; None without values."""
    if not values:
        return None
    seeds = values if isinstance(values, Mapping) else {}
    array = np.asarray(list(seeds.values() if seeds else values), dtype=float)
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Summary(float(array.mean()), std, len(array), seeds=seeds)


def paired(
    values: Mapping[int, float], reference: Mapping[int, float], alpha: float = ALPHA, tests: int = 1
) -> Difference | None:
    """Take the difference seed by seed, for two values of the same trials (one expert and the ensemble).

    Over the seeds that both have; None without any. ``tests``: of how many, that share ``alpha``, this is one (Bonferroni).
    """
    seeds = sorted(set(values) & set(reference))
    if not seeds:
        return None
    differences = np.asarray([values[seed] - reference[seed] for seed in seeds], dtype=float)
    mean, n = float(differences.mean()), len(differences)
    # Rounding alone makes a spread of about 1e-16 times the values.
    if n < MIN_SEEDS or np.ptp(differences) <= 1e-12 * max(1.0, float(np.abs(differences).max())):
        return Difference(mean, None, n)
    found = stats.ttest_1samp(differences, 0.0)
    interval = found.confidence_interval(1 - alpha / tests)
    p = min(1.0, float(found.pvalue) * tests * ALPHA / alpha)
    return Difference(mean, (float(interval.low), float(interval.high)), n, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction over the p-values that are there (Holm, 1979), in the given order."""
    present = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(present):
        largest = max(largest, min(1.0, (len(present) - rank) * p))
        corrected[i] = largest
    return corrected
