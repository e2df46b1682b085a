"""Effects of a factorial study, against a linear model with known coefficients and against all orders by brute force."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import SweepRuns
from analysis.read.selection import by_cell
from analysis.statistics.factorial import interaction, main_effect, shapley
from analysis.tables import ablation, factorial
from tests.analysis.conftest import ACCURACY, SWEEP, Store, planned

NAMES = ("A", "B", "C")
SUBSETS = [frozenset(s) for n in range(4) for s in combinations(NAMES, n)]


def test_a_known_model() -> None:
    """y = 10 + 3A + 2B − C + 4AB: main effects average the interaction over B on and off."""
    y = {s: 10 + 3 * ("A" in s) + 2 * ("B" in s) - ("C" in s) + 4 * ({"A", "B"} <= s) for s in SUBSETS}
    assert [main_effect(y, NAMES, a) for a in NAMES] == [5, 4, -1]
    assert [interaction(y, NAMES, a, b) for a, b in combinations(NAMES, 2)] == [4, 0, 0]
    assert [shapley(y, NAMES, a) for a in NAMES] == pytest.approx([5, 4, -1])  # an interaction is shared in halves


def test_shapley_is_the_mean_over_all_orders() -> None:
    random = np.random.default_rng(0)
    y = {s: float(random.normal()) for s in SUBSETS}
    for a in NAMES:
        gains = []
        for order in permutations(NAMES):
            before = frozenset(order[: order.index(a)])
            gains.append(y[before | {a}] - y[before])
        assert shapley(y, NAMES, a) == pytest.approx(np.mean(gains))
    assert sum(shapley(y, NAMES, a) for a in NAMES) == pytest.approx(y[frozenset(NAMES)] - y[frozenset()])


@pytest.fixture(scope="module")
def runs(store: Store) -> SweepRuns:
    return TrackingStore(store.uri).sweep(SWEEP)


def study(runs: SweepRuns, on: dict[str, list[str]]) -> tuple:
    rows = [planned(name).model_copy(update={"components": parts, "pure": True}) for name, parts in on.items()]
    plan = runs.plan.model_copy(update={"rows": rows, "components": ["X", "Y"], "reference": rows[0].name})
    return plan, ablation.build(plan, by_cell(runs.frame))


def test_from_runs(runs: SweepRuns) -> None:
    on = {"CE": [], "BIL": ["X"], "BIL + InterCL": ["Y"], "NCL++": ["X", "Y"]}
    (found,) = factorial.build(*study(runs, on))
    assert found.components == ("X", "Y")
    effects = {(e.kind, e.name): e.difference for e in found.effects}
    e, x, y, xy = (np.mean([100 * a for a, _ in ACCURACY[name] if a]) for name in on)  # 0: has not run
    assert effects["main effect", "X"].mean == pytest.approx(((x - e) + (xy - y)) / 2)
    assert effects["interaction", "X × Y"].mean == pytest.approx(xy - x - y + e)
    assert effects["whole gain", "all 2"].mean == pytest.approx(xy - e)
    assert effects["main effect", "X"].significant is None  # one combination has two seeds: nothing is claimed
    assert effects["main effect", "X"].n == 2 and effects["whole gain", "all 2"].significant
    table = factorial.to_table(found, "effects")
    assert [row[0] for row in table.rows] == ["X", "Y", "X × Y", "X", "Y", "all 2"]


def test_a_part_of_a_factorial_is_none(runs: SweepRuns) -> None:
    assert factorial.build(*study(runs, {"CE": [], "BIL": ["X"], "NCL++": ["X", "Y"]})) == []
