"""Statistics over seeds: mean and spread, differences paired by seed, Holm's correction.

Differences between methods are paired: the same seed draws the same order and initialisation in every row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
MIN_PAIRS = 3  # with fewer common seeds no significance is claimed


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (ddof 1; None for n < 2) of ``n`` values, in their unit.

    ``planned``: how many there should be, set only where some are missing and the cell has to show it.
    """

    mean: float
    std: float | None
    n: int
    planned: int | None = None


@dataclass(frozen=True)
class Difference:
    """A difference paired by seed, value minus reference, in the values' unit.

    ``interval``: 95 % t-interval, None for n < 2. ``p``: two-sided paired t-test, None for n < 3 or where all pairs
    differ by the same amount, which leaves the test undefined. ``p_holm``: after Holm's correction over the table.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    p: float | None = None
    p_holm: float | None = None

    @property
    def significant(self) -> bool | None:
        """Is the corrected p-value below 0.05? None where nothing is claimed."""
        return None if self.p_holm is None else self.p_holm < ALPHA


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean ± std; None without values."""
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Summary(float(array.mean()), std, len(array))


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """Take the difference over the seeds that both have; None without any. The arguments are values by seed."""
    seeds = sorted(set(values) & set(reference))
    if not seeds:
        return None
    differences = np.asarray([values[seed] - reference[seed] for seed in seeds], dtype=float)
    mean, n = float(differences.mean()), len(differences)
    if n < 2:
        return Difference(mean, None, n)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    half = float(stats.t.ppf(1 - ALPHA / 2, n - 1)) * error
    # Rounding alone makes a spread of about 1e-16 times the values.
    constant = error <= 1e-12 * max(1.0, float(np.abs(differences).max()))
    p = None if n < MIN_PAIRS or constant else float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(mean, (mean - half, mean + half), n, p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction over the p-values that are there (Holm, 1979), in the given order."""
    present = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(present):
        largest = max(largest, min(1.0, (len(present) - rank) * p))
        corrected[i] = largest
    return corrected
