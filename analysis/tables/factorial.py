"""What components of a factorial study give, as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from analysis.statistics.contrasts import Group, simultaneous
from analysis.statistics.factorial import Y, coefficients, interaction, main_effect, shapley, subsets
from analysis.statistics.seeds import Difference
from analysis.tables.ablation import AblationTable, percent
from analysis.tables.record import Column, Table
from ltsearch.store.records import PlanRecord, headline

HOW_TO_READ = (
    "Percentage points, contrasts of the means of all combinations, with the error pooled over them. Main effects, "
    "interactions and Shapley values are a family each, and the whole gain is one by itself: 95 % intervals hold for all of a "
    "family at once, and p is corrected for it; `*`: p < 0.05. Main effect of A: what switching A on adds, averaged over all "
    "combinations of the others. "
    "Interaction A × B: how much more A adds with B on than with B off, averaged likewise (below zero: they give partly the "
    "same). Shapley value: A's share of the whole gain, its addition averaged over all orders of switching components on; "
    "the values add up to the gain."
)


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
    effects: tuple[Effect, ...]


def build(plan: PlanRecord, tables: Sequence[AblationTable]) -> list[Factorial]:
    """One for every table that has all ``2^k`` combinations of ``k >= 2`` components, each with at least one seed."""
    found = []
    for table in tables:
        rows = {
            frozenset(row.components): row
            for row in reversed(plan.rows)  # the first of several stands
            if row.setting == table.setting and row.name in table.selection.runs and row.pure
        }
        components = tuple(c for c in plan.components if frozenset({c}) in rows)
        every = list(subsets(components))
        if len(components) < 2 or not all(subset in rows for subset in every):
            continue
        values = [percent(table.selection.runs[rows[s].name], headline(rows[s].predict)) for s in every]
        if all(values):
            groups = [Group(tuple(v.values())) for v in values]
            found.append(Factorial(table.setting, components, tuple(effects(components, groups))))
    return found


def effects(components: Sequence[str], groups: Sequence[Group]) -> list[Effect]:
    """Of the rows ``[2^k]``, in the order of ``subsets``: main effects, interactions, Shapley values and the whole gain."""
    pairs = list(combinations(components, 2))

    def family(kind: str, names: Sequence[str], linear: Sequence[Callable[[Y], float]]) -> list[Effect]:
        judged = simultaneous(groups, [coefficients(components, effect) for effect in linear])
        return [Effect(kind, name, d) for name, d in zip(names, judged.differences, strict=True)]

    return [
        *family("main effect", components, [lambda y, a=a: main_effect(y, components, a) for a in components]),  # type: ignore[misc]
        *family(
            "interaction",
            [f"{a} × {b}" for a, b in pairs],
            [lambda y, a=a, b=b: interaction(y, components, a, b) for a, b in pairs],  # type: ignore[misc]
        ),
        *family("Shapley value", components, [lambda y, a=a: shapley(y, components, a) for a in components]),  # type: ignore[misc]
        *family("whole gain", [f"all {len(components)}"], [lambda y: y[frozenset(components)] - y[frozenset()]]),
    ]


def to_table(found: Factorial, name: str) -> Table:
    """As printed; n: seeds of the combination that has fewest."""
    columns = (Column("effect", ""), Column("kind", "kind"), Column("points", "points"), Column("n", "n", format="d"))
    rows = tuple((e.name, e.kind, e.difference, e.difference.n) for e in found.effects)
    return Table(name, "Main effects, interactions and Shapley values of the components", columns, rows)
