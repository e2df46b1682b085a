"""What components of a factorial study give: main effects, two-way interactions, and Shapley values of the whole gain.

Legend: ``y(S)`` is a row's accuracy with the components ``S`` on, ``k`` components, ``A`` and ``B`` two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import factorial

from analysis.statistics.seeds import Difference, holm, paired
from analysis.tables.ablation import AblationTable, percent
from analysis.tables.record import Column, Table
from ltsearch.records import PlanRecord, headline

HOW_TO_READ = (
    "Percentage points, means over the seeds that every combination has, with 95 % t-intervals; p: after Holm's correction "
    "over the table (the whole gain is not one of them); `*`: p < 0.05. Main effect of A: what switching A on adds, averaged "
    "over all combinations of the others. "
    "Interaction A × B: how much more A adds with B on than with B off, averaged likewise (below zero: they give partly the "
    "same). Shapley value: A's share of the whole gain, its addition averaged over all orders of switching components on; "
    "the values add up to the gain."
)
Y = Mapping[frozenset[str], float]


@dataclass(frozen=True)
class Effect:
    """One line. ``kind``: main effect, interaction, Shapley value or whole gain."""

    kind: str
    name: str
    difference: Difference


@dataclass(frozen=True)
class Factorial:
    """Of one setting."""

    setting: str
    components: tuple[str, ...]
    seeds: tuple[int, ...]
    effects: tuple[Effect, ...]


def build(plan: PlanRecord, tables: Sequence[AblationTable]) -> list[Factorial]:
    """One for every table that has all ``2^k`` combinations of ``k >= 2`` components with at least one common seed."""
    found = []
    for table in tables:
        rows = {
            frozenset(row.components): row
            for row in reversed(plan.rows)  # the first of several stands
            if row.setting == table.setting and row.name in table.selection.runs and row.pure
        }
        components = tuple(c for c in plan.components if frozenset({c}) in rows)
        subsets = [frozenset(s) for n in range(len(components) + 1) for s in combinations(components, n)]
        if len(components) < 2 or not all(subset in rows for subset in subsets):
            continue
        values = {s: percent(table.selection.runs[rows[s].name], headline(rows[s].predict)) for s in subsets}
        seeds = sorted(set.intersection(*(set(v) for v in values.values())))
        if seeds:
            by_seed = {seed: {s: values[s][seed] for s in subsets} for seed in seeds}
            found.append(Factorial(table.setting, components, tuple(seeds), _effects(components, by_seed)))
    return found


def _effects(components: Sequence[str], by_seed: Mapping[int, Y]) -> tuple[Effect, ...]:
    k = len(components)

    def over(of: Callable[[Y], float]) -> Difference:
        difference = paired({seed: of(y) for seed, y in by_seed.items()}, dict.fromkeys(by_seed, 0.0))
        assert difference is not None  # there is a seed
        return difference

    effects = [Effect("main effect", a, over(lambda y, a=a: main_effect(y, components, a))) for a in components]  # type: ignore[misc]
    effects += [
        Effect("interaction", f"{a} × {b}", over(lambda y, a=a, b=b: interaction(y, components, a, b)))  # type: ignore[misc]
        for a, b in combinations(components, 2)
    ]
    effects += [Effect("Shapley value", a, over(lambda y, a=a: shapley(y, components, a))) for a in components]  # type: ignore[misc]
    gain = over(lambda y: y[frozenset(components)] - y[frozenset()])
    corrected = holm([effect.difference.p for effect in effects])
    effects = [
        replace(effect, difference=replace(effect.difference, p_holm=p))
        for effect, p in zip(effects, corrected, strict=True)
    ]
    return (*effects, Effect("whole gain", f"all {k}", gain))


def _subsets(components: Sequence[str]) -> Iterator[frozenset[str]]:
    for n in range(len(components) + 1):
        yield from map(frozenset, combinations(components, n))


def main_effect(y: Y, components: Sequence[str], a: str) -> float:
    """``mean over S ∌ A of y(S ∪ A) − y(S)``."""
    gains = [y[s | {a}] - y[s] for s in _subsets([c for c in components if c != a])]
    return sum(gains) / len(gains)


def interaction(y: Y, components: Sequence[str], a: str, b: str) -> float:
    """``mean over S ∌ A, B of [y(S ∪ AB) − y(S ∪ B)] − [y(S ∪ A) − y(S)]``."""
    others = [c for c in components if c not in (a, b)]
    gains = [(y[s | {a, b}] - y[s | {b}]) - (y[s | {a}] - y[s]) for s in _subsets(others)]
    return sum(gains) / len(gains)


def shapley(y: Y, components: Sequence[str], a: str) -> float:
    """``Σ over S ∌ A of |S|! (k − |S| − 1)! / k! · [y(S ∪ A) − y(S)]`` (Shapley, 1953)."""
    k = len(components)
    others = [c for c in components if c != a]
    return sum(
        factorial(len(s)) * factorial(k - len(s) - 1) / factorial(k) * (y[s | {a}] - y[s]) for s in _subsets(others)
    )


def to_table(found: Factorial, name: str) -> Table:
    """As printed."""
    columns = (Column("effect", ""), Column("kind", "kind"), Column("points", "points"), Column("n", "n", format="d"))
    rows = tuple((e.name, e.kind, e.difference, len(found.seeds)) for e in found.effects)
    return Table(name, "Main effects, interactions and Shapley values of the components", columns, rows)
