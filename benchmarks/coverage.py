"""How often a table's intervals hold all at once, and how often it has a star where there is nothing: 5,000 made-up tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.statistics.contrasts import Group, seeds_needed
from analysis.statistics.factorial import coefficients, interaction, main_effect, shapley, subsets
from analysis.tables import ablation, factorial
from benchmarks.measure import Row, Spread
from ltsearch.store.records import PlannedCell, PlannedRow, headline

TITLE = "Coverage of the tables' intervals"
TOLERANCE = 0.01
Values = Mapping[str, NDArray[np.float64]]  # percent by row, one a seed


@dataclass(frozen=True)
class Design:
    """Rows and their true means in percent; ``draw(random, means)`` gives the values of every row."""

    name: str
    means: Callable[[np.random.Generator], dict[str, float]]
    draw: Callable[[np.random.Generator, Mapping[str, float]], Values]
    first: int | None = None
    same: frozenset[str] = frozenset()  # rows of the reference's own trials
    exact: bool = True  # the intervals are meant to cover 0.95, not at least 0.95


def run(quick: bool) -> list[Row]:
    tables = 300 if quick else 5000
    return [row for design in _designs() for row in _simulate(design, tables)] + _effects(tables)


def _random_means(rows: int) -> Callable[[np.random.Generator], dict[str, float]]:
    return lambda random: {f"row {i}": 50 + float(random.normal(0, 1.5)) for i in range(rows)}


def _normal(seeds: list[int], spreads: list[float]) -> Callable[[np.random.Generator, Mapping[str, float]], Values]:
    def draw(random: np.random.Generator, means: Mapping[str, float]) -> Values:
        return {
            row: mean + spread * random.normal(size=n)
            for (row, mean), n, spread in zip(means.items(), seeds, spreads, strict=True)
        }

    return draw


def _with_ensembles(random: np.random.Generator, means: Mapping[str, float]) -> Values:
    """Every second row is the ensemble of the one before, their errors correlated by 0.8."""
    found: dict[str, NDArray[np.float64]] = {}
    for i, (row, mean) in enumerate(means.items()):
        if i % 2 == 0:
            error = random.normal(size=5)
        found[row] = mean + (error if i % 2 == 0 else 0.8 * error + 0.6 * random.normal(size=5))
    return found


def _stein(random: np.random.Generator, means: Mapping[str, float]) -> Values:
    first = {row: mean + random.normal(size=4) for row, mean in means.items()}
    needed = seeds_needed([Group(tuple(v)) for v in first.values()], 0, 1.2, 200)
    return {row: np.concatenate([v, means[row] + random.normal(size=needed - 4)]) for row, v in first.items()}


def _designs() -> list[Design]:
    unequal = _normal([5] * 8, [0.4, 0.4, 0.4, 0.4, 1.6, 1.6, 1.6, 1.6])
    return [
        Design("8 rows, 5 seeds", _random_means(8), _normal([5] * 8, [1.0] * 8)),
        Design("20 rows, 3 seeds", _random_means(20), _normal([3] * 20, [1.0] * 20)),
        Design("8 rows, 3 to 10 seeds", _random_means(8), _normal([10, 3, 4, 5, 5, 5, 7, 10], [1.0] * 8)),
        Design("8 rows, 5 seeds, spreads of 0.4 and 1.6", _random_means(8), unequal, exact=False),
        Design(
            "8 rows, 5 seeds, every second the ensemble of the one before",
            _random_means(8),
            _with_ensembles,
            same=frozenset({"row 1"}),
            exact=False,
        ),
        Design("5 rows, Stein's rule after 4 seeds", _random_means(5), _stein, first=4),
    ]


def _simulate(design: Design, tables: int) -> list[Row]:
    random = np.random.default_rng(0)
    held = false = 0
    for _ in range(tables):
        means = design.means(random)
        values = design.draw(random, means)
        held += _holds(_judge(values, design), means)
        flat = dict.fromkeys(means, 50.0)
        false += any(d.significant for d in _judge(design.draw(random, flat), design).values())
    covered, wrong = held / tables, false / tables
    low = covered >= 0.95 - TOLERANCE
    return [
        Row(
            f"{design.name}: all intervals hold",
            ours=Spread(covered, covered, covered),
            target="0.95 ± 0.01" if design.exact else "≥ 0.95 - 0.01",
            met=low and (covered <= 0.95 + TOLERANCE or not design.exact),
        ),
        Row(
            f"{design.name}: a star where all rows are alike",
            ours=Spread(wrong, wrong, wrong),
            target="≤ 0.05 + 0.01",
            met=wrong <= 0.05 + TOLERANCE,
        ),
    ]


def _judge(values: Values, design: Design) -> dict[str, ablation.Difference]:
    """The differences of a report's table with these values."""
    rows = [
        PlannedRow(
            name=row,
            predict="single",
            changes={},
            cells=[PlannedCell(cell=f"{_trials(row, design)}-{seed}", seed=seed) for seed in range(len(found))],
        )
        for row, found in values.items()
    ]
    metric = headline("single")
    runs = {
        row.name: {seed: {metric: value / 100} for seed, value in enumerate(values[row.name])} for row in rows
    }  # fmt: skip
    return ablation.differences(rows, rows[0], runs, design.first).by_row


def _trials(row: str, design: Design) -> str:
    return "row 0" if row in design.same else row


def _holds(found: Mapping[str, ablation.Difference], means: Mapping[str, float]) -> bool:
    truth = {row: mean - means["row 0"] for row, mean in means.items()}
    intervals = {row: d.interval for row, d in found.items()}
    return all(i is not None and i[0] <= truth[row] <= i[1] for row, i in intervals.items())


def _effects(tables: int) -> list[Row]:
    """Each family of a factorial with three components and three seeds."""
    names, random = ("A", "B", "C"), np.random.default_rng(1)
    every = list(subsets(names))
    families = {
        "main effect": [coefficients(names, lambda y, a=a: main_effect(y, names, a)) for a in names],  # type: ignore[misc]
        "interaction": [
            coefficients(names, lambda y, a=a, b=b: interaction(y, names, a, b))  # type: ignore[misc]
            for a, b in (("A", "B"), ("A", "C"), ("B", "C"))
        ],
        "Shapley value": [coefficients(names, lambda y, a=a: shapley(y, names, a)) for a in names],  # type: ignore[misc]
    }
    held = dict.fromkeys(families, 0)
    for _ in range(tables):
        means = random.normal(0, 1, len(every))
        groups = [Group(tuple(m + random.normal(size=3))) for m in means]
        effects = factorial.effects(names, groups)
        for kind, rows in families.items():
            truth = np.asarray(rows) @ means
            intervals = [e.difference.interval for e in effects if e.kind == kind]
            held[kind] += all(i is not None and i[0] <= t <= i[1] for i, t in zip(intervals, truth, strict=True))
    rows = []
    for kind, count in held.items():
        covered = count / tables
        met = abs(covered - 0.95) <= TOLERANCE
        what = f"factorial of 3 components, 3 seeds, {kind}s: all intervals hold"
        rows.append(Row(what, ours=Spread(covered, covered, covered), target="0.95 ± 0.01", met=met))
    return rows
