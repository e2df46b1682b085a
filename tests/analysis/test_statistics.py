"""Statistics against scipy and numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.seeds import Difference, Summary, holm, paired, summarize


def test_summary_by_hand() -> None:
    assert summarize([1.0, 2.0, 6.0]) == Summary(3.0, pytest.approx(7**0.5), 3)  # type: ignore[arg-type]
    assert summarize([5.0]) == Summary(5.0, None, 1)
    assert summarize([]) is None


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("tests", [1, 4])
def test_paired_difference_is_scipys(n: int, tests: int) -> None:
    rng = np.random.default_rng(n)
    ours, reference = rng.normal(50, 1, n), rng.normal(49, 1, n)
    found = paired(dict(enumerate(ours)), dict(enumerate(reference)), tests=tests)
    expected = stats.ttest_rel(ours, reference)
    interval = expected.confidence_interval(1 - 0.05 / tests)
    assert found is not None and found.n == n
    assert found.mean == pytest.approx((ours - reference).mean())
    assert found.interval == pytest.approx((interval.low, interval.high))
    assert found.p == pytest.approx(min(1.0, tests * expected.pvalue))


def test_paired_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.302653.
    found = paired({0: 11.0, 1: 12.0, 2: 13.0}, {0: 10.0, 1: 10.0, 2: 10.0})
    assert found is not None and found.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_only_common_seeds_are_paired() -> None:
    found = paired({0: 1.0, 1: 2.0, 5: 90.0}, {1: 1.0, 0: 0.5, 7: -90.0})
    assert found is not None and found.n == 2 and found.mean == pytest.approx(0.75)
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_few_seeds_claim_nothing() -> None:
    two = paired({0: 5.0, 1: 5.1}, {0: 0.0, 1: 0.0})
    assert two is not None and two.p is None and two.significant is None and two.interval is None
    assert paired({0: 5.0}, {0: 0.0}) == Difference(5.0, None, 1)


def test_equal_differences_are_not_tested() -> None:
    # 0.3 - 0.1 and 0.4 - 0.2 differ in the last bit: a spread of rounding must not become p = 0.
    found = paired({0: 0.3, 1: 0.4, 2: 0.5}, {0: 0.1, 1: 0.2, 2: 0.3})
    assert found is not None and found.p is None and found.interval is None


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: 3·0.01, max(0.03, 2·0.03), max(0.06, 0.04).
    assert holm([0.04, None, 0.01, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.03), pytest.approx(0.06)]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_significance_is_of_the_corrected_value() -> None:
    assert Difference(1.0, None, 3, p=0.06).significant is False
    assert Difference(1.0, None, 3, p=0.04).significant is True
