"""Contrasts of the means of a table's rows, with intervals that hold all at once.

A row's seeds are a sample, independent of the other rows' (measured: the same seed in two rows correlates by 0.02, so pairing
by seed would cost degrees of freedom and gain nothing). All contrasts of a family are judged by the error pooled over all
rows and by the distribution of the largest of their t-statistics (Hothorn, Bretz and Westfall, Biometrical Journal 2008);
for differences to one reference that is Dunnett's test (JASA 1955). Interval and p-value come from the same distribution and
cannot disagree. Where variances differ (Brown-Forsythe), every contrast has Welch's test of its own, corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.statistics.seeds import ALPHA, MIN_SEEDS, Difference, holm

DRAWS = 199_999  # of the largest statistic: its 95 % quantile is known to 0.2 %
POWER = 0.8
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """A row: its values, one a seed.

    ``cells``: the trials they are of; rows of the same trials (one expert and the ensemble) count as one in the pooled error.
    ``first``: so many of the values alone give its spread (Stein's two-stage rule, by which they decided how many follow;
    Annals of Mathematical Statistics 1945), None: all.
    """

    values: tuple[float, ...]
    cells: frozenset[str] = frozenset()
    first: int | None = None


@dataclass(frozen=True)
class Family:
    """Contrasts judged together. ``differences``: in the given order; those without enough seeds have neither interval nor p.

    ``welch``: the p-value of Brown and Forsythe's test where variances differ, else None. ``freedom``: degrees of freedom of
    the pooled error, 0 where nothing was tested. ``detectable``: the smallest true difference that its test would find with
    80 % power, of the contrast for which that is least and of the one for which it is most.
    """

    differences: tuple[Difference, ...]
    welch: float | None = None
    freedom: float = 0.0
    detectable: tuple[float, float] | None = None


def simultaneous(groups: Sequence[Group], contrasts: Sequence[Sequence[float]], alpha: float = ALPHA) -> Family:
    """Estimate every contrast ``Σ_g c_g mean_g``, judged together at the level ``alpha``.

    Args:
        groups: the rows, also those that no contrast uses: their spread is a part of the pooled error.
        contrasts: ``[m, groups]``; those of a row without any value are an error of the caller.
        alpha: probability that any of the intervals misses.
    """
    c = np.asarray(contrasts, dtype=np.float64).reshape(-1, len(groups))
    means = np.array([np.mean(g.values) if g.values else np.nan for g in groups])
    n = np.array([len(g.values) for g in groups])
    used = c != 0
    estimates = [float(row[mask] @ means[mask]) for row, mask in zip(c, used, strict=True)]
    seeds = [int(n[mask].min()) for mask in used]
    plain = tuple(Difference(mean, None, count) for mean, count in zip(estimates, seeds, strict=True))
    tested = [i for i, count in enumerate(seeds) if count >= MIN_SEEDS]
    spread, freedom = pooled(groups)
    if not tested or freedom < 1 or spread <= 1e-12 * max(1.0, float(np.nanmax(np.abs(means)))):
        return Family(plain)
    unequal = brown_forsythe(groups) if all(g.first is None for g in groups) else None
    if unequal is None:
        judged = _pooled(c[tested], n, spread, freedom, alpha)
    else:
        judged = _welch(c[tested], groups, alpha)
    t = np.abs([estimates[i] / error for i, error in zip(tested, judged.errors, strict=True)])
    halves = [critical * error for critical, error in zip(judged.critical, judged.errors, strict=True)]
    found = list(plain)
    for i, half, p in zip(tested, halves, judged.p(t), strict=True):
        found[i] = Difference(estimates[i], (estimates[i] - half, estimates[i] + half), seeds[i], p)
    least = [
        e * smallest_ratio(q, f) for e, q, f in zip(judged.errors, judged.critical, judged.freedom, strict=True)
    ]  # fmt: skip
    return Family(tuple(found), unequal, freedom, (min(least), max(least)))


def pooled(groups: Sequence[Group]) -> tuple[float, float]:
    """The pooled standard deviation within groups and its degrees of freedom; (0, 0) without two values in any."""
    sizes = [sum(g.cells == other.cells for other in groups) if g.cells else 1 for g in groups]
    squares = weights = 0.0
    for group, size in zip(groups, sizes, strict=True):
        values = group.values[: group.first]
        if len(values) > 1:
            weights += (len(values) - 1) / size
            squares += (len(values) - 1) / size * float(np.var(values, ddof=1))
    return (sqrt(squares / weights), weights) if weights else (0.0, 0.0)


def brown_forsythe(groups: Sequence[Group]) -> float | None:
    """The p-value of equal variances (Brown and Forsythe, JASA 1974) if it is below 0.05, else None."""
    values = [g.values for g in groups if len(g.values) >= MIN_SEEDS]
    if len(values) < 2:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(stats.levene(*values, center="median").pvalue)
    return p if p < ALPHA else None


@dataclass(frozen=True)
class _Judged:
    """Of every contrast: standard error, critical value of ``|t|`` for its interval, degrees of freedom; and how p is had."""

    errors: list[float]
    critical: list[float]
    freedom: list[float]
    largest: Values | None = None  # draws of the largest statistic, sorted; None: Welch
    ratio: float = 1.0  # what the family's level is a part of

    def p(self, t: Values) -> list[float]:
        if self.largest is not None:
            above = len(self.largest) - np.searchsorted(self.largest, t, side="left")
            return [min(1.0, float(v)) for v in (above + 1) / (DRAWS + 1) * self.ratio]
        own = [float(2 * stats.t.sf(value, df)) for value, df in zip(t, self.freedom, strict=True)]
        return [min(1.0, p * self.ratio) for p in holm(own) if p is not None]


def _pooled(c: Values, n: NDArray[Any], spread: float, freedom: float, alpha: float) -> _Judged:
    with np.errstate(divide="ignore"):
        scaled = np.where(c != 0, c / np.sqrt(np.maximum(n, 1)), 0.0)
    lengths = np.linalg.norm(scaled, axis=1)
    unit = np.round(scaled[:, (c != 0).any(0)] / lengths[:, None], 9)  # equal designs, equal draws
    largest = _largest(unit.tobytes(), len(c), freedom)
    critical = float(largest[-(ceil(alpha * (DRAWS + 1)) - 1)])
    return _Judged(
        list(spread * lengths), [critical] * len(c), [freedom] * len(c), largest, ALPHA / alpha
    )  # fmt: skip


@lru_cache(maxsize=32)
def _largest(unit: bytes, m: int, freedom: float) -> Values:
    """Sorted draws of ``max_i |t_i|`` of ``m`` statistics with a common error, ``t_i = Σ_g unit_ig z_g / s``.

    The same every time and on every machine: the groups' means are drawn. Statistics drawn by their correlation would come from
    its decomposition, which is not unique where eigenvalues are equal, and differs between CPUs.
    """
    weights = np.frombuffer(unit).reshape(m, -1)
    random = np.random.default_rng(0)
    z = random.standard_normal((DRAWS, weights.shape[1]))
    s = np.sqrt(random.chisquare(freedom, DRAWS) / freedom)
    found = np.zeros(DRAWS)
    for some in np.array_split(weights, ceil(m / 32)):  # thousands of contrasts need not all be held
        np.maximum(found, np.abs(z @ some.T).max(1), out=found)
    return np.asarray(np.round(np.sort(found / s), 9))  # products of matrices differ in their last digit


def _welch(c: Values, groups: Sequence[Group], alpha: float) -> _Judged:
    """Welch-Satterthwaite; intervals by Bonferroni, which hold all at once."""
    errors, freedom = [], []
    for row in c:
        parts = [(x, np.var(g.values, ddof=1), len(g.values)) for x, g in zip(row, groups, strict=True) if x]
        terms = np.array([x**2 * v / n for x, v, n in parts])
        errors.append(max(sqrt(terms.sum()), 1e-12))
        below = sum(t**2 / (n - 1) for t, (_, _, n) in zip(terms, parts, strict=True))
        freedom.append(float(terms.sum() ** 2 / below) if below else float(min(n for _, _, n in parts) - 1))
    critical = [float(stats.t.ppf(1 - alpha / (2 * len(c)), df)) for df in freedom]
    return _Judged(errors, critical, freedom, None, ALPHA / alpha)


@lru_cache(maxsize=1024)
def smallest_ratio(critical: float, freedom: float, power: float = POWER) -> float:
    """The true difference in standard errors for which ``P(|t| > critical) = power``, t being noncentral.

    The mean over the estimated error's distribution of the probability given it: ``scipy.stats.nct`` has no number far out.
    """
    bound = critical * stats.chi.ppf((np.arange(500) + 0.5) / 500, freedom) / sqrt(freedom)

    def missing(shift: float) -> float:
        return float((stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)).mean()) - power

    return float(optimize.brentq(missing, 0.0, 2 * critical + 4, xtol=1e-4))


def to_reference(count: int, reference: int) -> list[list[float]]:
    """Differences of all other groups to one: ``[count - 1, count]``."""
    rows = np.eye(count)
    rows[:, reference] -= 1
    return [list(map(float, row)) for i, row in enumerate(rows) if i != reference]


def seeds_needed(groups: Sequence[Group], reference: int, halfwidth: float, most: int) -> int:
    """How many seeds a row needs for simultaneous intervals of ± ``halfwidth`` to the reference (Stein's second stage).

    By the spread of the values given, all of the first stage; at least their number, at most ``most``.
    """
    enough = [i for i, g in enumerate(groups) if len(g.values) > 1]
    least = max((len(g.values) for g in groups), default=0)
    spread, freedom = pooled(groups)
    if reference not in enough or len(enough) < 2 or not freedom:
        return least
    equal = np.ones(len(enough), dtype=int)
    contrasts = np.asarray(to_reference(len(enough), enough.index(reference)))
    critical = _pooled(contrasts, equal, 1.0, freedom, ALPHA).critical[0]
    return min(most, max(least, ceil(2 * (critical * spread / halfwidth) ** 2 - 1e-9)))
