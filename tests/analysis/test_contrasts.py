"""Simultaneous contrasts against scipy's Dunnett, t and Welch tests, multivariate t, least squares, and by simulation."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.contrasts import (
    Group,
    brown_forsythe,
    pooled,
    seeds_needed,
    simultaneous,
    smallest_ratio,
    to_reference,
)
from analysis.statistics.factorial import coefficients, main_effect, subsets
from analysis.statistics.seeds import holm


def normal(seed: int, sizes: list[int], means: list[float] | None = None, spread: float = 1.0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [m + spread * random.normal(size=n) for n, m in zip(sizes, means or [0.0] * len(sizes), strict=True)]


def groups(values: list[np.ndarray]) -> list[Group]:
    return [Group(tuple(map(float, v))) for v in values]


@pytest.mark.parametrize("sizes", [[5, 5], [3, 3, 3, 3], [5] * 9, [5, 3, 4, 8, 5], [10, 4, 4, 4]])
@pytest.mark.parametrize("reference", [0, 1])
def test_differences_to_a_reference_are_scipys_dunnett(sizes: list[int], reference: int) -> None:
    values = normal(sum(sizes), sizes, [float(i) for i in range(len(sizes))])
    family = simultaneous(groups(values), to_reference(len(sizes), reference))
    others = [v for i, v in enumerate(values) if i != reference]
    theirs = stats.dunnett(*others, control=values[reference], random_state=0)
    interval = theirs.confidence_interval(0.95)
    assert family.welch is None and family.freedom == sum(sizes) - len(sizes)
    for ours, low, high, p in zip(family.differences, interval.low, interval.high, theirs.pvalue, strict=True):
        assert ours.interval is not None and ours.p is not None
        assert (low + high) / 2 == pytest.approx(ours.mean)
        assert ours.interval[1] - ours.mean == pytest.approx((high - low) / 2, rel=0.01)  # both are integrated by draws
        assert ours.p == pytest.approx(p, abs=0.004)


def test_one_difference_is_the_t_test() -> None:
    a, b = normal(0, [5, 7], [1.0, 0.0])
    (ours,) = simultaneous(groups([a, b]), [[1, -1]]).differences
    theirs = stats.ttest_ind(a, b)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.002)
    assert ours.interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), abs=0.01)


def test_where_variances_differ_it_is_welch_with_holm() -> None:
    values = normal(1, [12, 12, 12, 12], [0.0, 1.0, 2.0, 0.5])
    values[2] *= 6
    family = simultaneous(groups(values), to_reference(4, 0))
    assert family.welch == pytest.approx(stats.levene(*values, center="median").pvalue) and family.welch < 0.05
    theirs = [stats.ttest_ind(v, values[0], equal_var=False) for v in values[1:]]
    for ours, p, test in zip(family.differences, holm([t.pvalue for t in theirs]), theirs, strict=True):
        assert ours.p == pytest.approx(p)
        assert ours.interval == pytest.approx(tuple(test.confidence_interval(1 - 0.05 / 3)))
    assert family.detectable is not None and family.detectable[0] < family.detectable[1]
    assert brown_forsythe(groups(normal(2, [12] * 4))) is None


def test_interval_and_star_never_disagree() -> None:
    random = np.random.default_rng(3)
    seen = set()
    for table in range(200):
        values = normal(table, [5] * 4, list(random.normal(0, 1.5, 4)))
        family = simultaneous(groups(values), to_reference(4, 0))
        for d in family.differences if family.welch is None else ():
            assert d.interval is not None and d.significant == (d.interval[0] > 0 or d.interval[1] < 0)
            seen.add(d.significant)
    assert seen == {True, False}


def test_a_part_of_the_level_widens_intervals_and_raises_p() -> None:
    values = groups(normal(4, [5] * 4, [0.0, 2.0, 1.0, 0.5]))
    whole, part = (simultaneous(values, to_reference(4, 0), alpha) for alpha in (0.05, 0.05 * 3 / 4))
    for a, b in zip(whole.differences, part.differences, strict=True):
        assert a.interval is not None and b.interval is not None and a.p is not None
        assert b.interval[0] < a.interval[0] and b.p == pytest.approx(min(1.0, a.p * 4 / 3))


def test_few_seeds_and_no_spread_claim_nothing() -> None:
    values = groups(normal(5, [5, 2, 1, 4]))
    a, b, c = simultaneous(values, to_reference(4, 0)).differences
    assert (a.interval, a.p, a.n) == (None, None, 2) and (b.interval, b.n) == (None, 1) and c.p is not None
    constant = simultaneous([Group((0.1 + 0.2,) * 3), Group((0.3,) * 3)], [[1, -1]])
    assert constant.differences[0].p is None and constant.detectable is None
    # Rounding alone is no spread: these differ in the last bit.
    rounded = simultaneous([Group((0.3, 0.1 + 0.2, 0.3)), Group((0.5,) * 3)], [[1, -1]])
    assert rounded.differences[0].interval is None


def test_rows_of_the_same_trials_count_once_in_the_error() -> None:
    a, b, c = normal(6, [5, 5, 5])
    trials = frozenset("xyz")
    spread, freedom = pooled([Group(tuple(a)), Group(tuple(b), trials), Group(tuple(c), trials)])
    assert freedom == 8
    assert spread**2 == pytest.approx((4 * a.var(ddof=1) + 2 * b.var(ddof=1) + 2 * c.var(ddof=1)) / 8)


@pytest.mark.parametrize(("critical", "freedom"), [(12.7, 1), (2.306, 8), (2.9, 40)])
def test_what_a_test_can_find(critical: float, freedom: int) -> None:
    ratio = smallest_ratio(critical, freedom)
    random = np.random.default_rng(7)
    t = (random.normal(size=200_000) + ratio) / np.sqrt(random.chisquare(freedom, 200_000) / freedom)
    assert (np.abs(t) > critical).mean() == pytest.approx(0.8, abs=0.004)


def test_the_detectable_difference_of_a_table() -> None:
    values = normal(8, [5, 5, 5, 3])
    family = simultaneous(groups(values), to_reference(4, 0))
    spread, freedom = pooled(groups(values))
    half = [d.interval[1] - d.mean for d in family.differences if d.interval is not None]
    for size, width, found in ((5, half[0], min), (3, half[2], max)):
        error = spread * np.sqrt(1 / 5 + 1 / size)
        assert family.detectable is not None
        assert found(family.detectable) == pytest.approx(error * smallest_ratio(width / error, freedom), rel=1e-6)


def test_steins_first_stage_decides_how_many_and_gives_the_width() -> None:
    values = normal(9, [5, 5, 5])
    spread, freedom = pooled(groups(values))
    theirs = stats.dunnett(values[1], values[2], control=values[0], random_state=0).confidence_interval(0.95)
    critical = (theirs.high - theirs.low)[0] / 2 / (spread * np.sqrt(2 / 5))
    needed = seeds_needed(groups(values), 0, 0.5, 1000)
    assert needed == pytest.approx(2 * (critical * spread / 0.5) ** 2, rel=0.03)
    assert seeds_needed(groups(values), 0, 0.5, 7) == 7 and seeds_needed(groups(values), 0, 100.0, 1000) == 5
    later = [Group((*v, *normal(10, [needed - 5], spread=9.0)[0]), first=5) for v in groups_values(values)]
    family = simultaneous(later, to_reference(3, 0))
    assert family.welch is None and family.freedom == freedom
    for d in family.differences:
        assert d.interval is not None and (d.interval[1] - d.interval[0]) / 2 <= 0.5 and d.n == needed


def groups_values(values: list[np.ndarray]) -> list[tuple[float, ...]]:
    return [tuple(map(float, v)) for v in values]


def test_effects_of_a_factorial_are_least_squares_with_one_critical_value() -> None:
    names = ("A", "B", "C")
    every = list(subsets(names))
    values = normal(11, [4] * 8, [float("A" in s) for s in every])
    contrasts = [coefficients(names, lambda y, a=a: main_effect(y, names, a)) for a in names]
    family = simultaneous(groups(values), contrasts)
    assert family.freedom == 24
    # Columns of ±1/2: a coefficient is the difference of the means with the component on and off. Saturated by all products.
    signs = np.array([[0.5 if a in s else -0.5 for a in names] for s in every for _ in range(4)])
    products = [signs[:, i] * signs[:, j] for i, j in combinations(range(3), 2)] + [signs.prod(1)]
    design = np.column_stack([np.ones(32), signs, *products])
    y = np.concatenate(values)
    solution = np.linalg.solve(design.T @ design, design.T @ y)
    error = np.sqrt(((y - design @ solution) ** 2).sum() / 24 * np.diag(np.linalg.inv(design.T @ design)))
    for i, d in enumerate(family.differences):
        assert d.interval is not None and d.mean == pytest.approx(solution[i + 1])
        critical = (d.interval[1] - d.mean) / error[i + 1]
        # Orthogonal effects with a common error: the box's probability under the multivariate t.
        box = np.full(3, critical)
        inside = stats.multivariate_t(shape=np.eye(3), df=24).cdf(box, lower_limit=-box, random_state=0)
        assert inside == pytest.approx(0.95, abs=0.002)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenBLAS has no other kernels to choose there")
def test_intervals_are_the_same_on_another_processor() -> None:
    """A report must be written again to the byte; OpenBLAS has other kernels for other processors, and takes one for older."""
    ask = (
        "import hashlib, numpy\n"
        "from analysis.statistics.contrasts import _largest\n"
        "unit = numpy.random.default_rng(5).normal(size=(40, 12))\n"
        "unit /= numpy.linalg.norm(unit, axis=1, keepdims=True)\n"
        "print(hashlib.sha256(_largest(numpy.round(unit, 9).tobytes(), 40, 24.0).tobytes()).hexdigest())"
    )
    told = [
        subprocess.run([sys.executable, "-c", ask], env=os.environ | of, capture_output=True, text=True, check=True)
        for of in ({"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Prescott"})
    ]
    assert told[0].stdout == told[1].stdout and len(told[0].stdout) == 65
