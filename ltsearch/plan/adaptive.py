"""Adaptive seeds: how many a table needs for the intervals that were asked for, by Stein's two-stage rule.

The spread of the first seeds decides how many follow, and the intervals keep that spread: so their coverage is exact. A rule
that looks at the interval after every seed and stops when it likes it covers 0.91 to 0.93 instead of 0.95.

What a row gets follows from the records of what has finished, and from nothing else: a sweep that goes on after a crash comes
to the same seeds as one that was not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

from ltsearch.plan.cells import Plan, PlanRow
from ltsearch.store.records import SETTLED, CellRecord, Status, headline
from ltsearch.study.spec import AdaptiveSeeds

Read = Callable[[str], CellRecord | None]


def first(plan: Plan) -> int | None:
    """How many seeds decide; None if their number is fixed."""
    rule = plan.loaded.spec.seeds
    return rule.min if isinstance(rule, AdaptiveSeeds) else None


def seeds_now(plan: Plan, read: Read) -> dict[str, int]:
    """How many seeds every row gets, by label, as far as that can be told from the records that ``read`` finds.

    All rows get ``min``. Once these have ended, all rows of a setting get as many as the simultaneous intervals of their
    differences need, at most ``max``.
    """
    rule = plan.loaded.spec.seeds
    if not isinstance(rule, AdaptiveSeeds):
        return {row.label: len(row.cells) for row in plan.rows}
    counts: dict[str, int] = {}
    for rows in _by_setting(plan):
        needed = _needed(rows, plan.reference, rule, read, rule.max)
        counts |= {row.label: rule.min if row in _hopeless(rows, rule, read) else needed for row in rows}
    return counts


def _by_setting(plan: Plan) -> list[list[PlanRow]]:
    return [[r for r in plan.rows if r.setting == s] for s in dict.fromkeys(row.setting for row in plan.rows)]


def _hopeless(rows: Sequence[PlanRow], rule: AdaptiveSeeds, read: Read) -> list[PlanRow]:
    """Rows whose first seeds have ended without two results: more seeds would not make it."""
    return [row for row in rows if _ended([row], rule, read) and len(_accuracies(row, rule, read)) < 2]


def _ended(rows: Sequence[PlanRow], rule: AdaptiveSeeds, read: Read) -> bool:
    records = (read(cell.id) for row in rows for cell in row.cells[: rule.min])
    return all(record is not None and record.status in SETTLED for record in records)


def _needed(rows: Sequence[PlanRow], reference: str | None, rule: AdaptiveSeeds, read: Read, most: int) -> int:
    base = next(row for row in rows if row.name == reference)
    trials = {cell.id for cell in base.cells}
    # Rows of the reference's own trials are compared with it seed by seed, which needs fewer.
    others = [row for row in rows if row is not base and trials.isdisjoint(cell.id for cell in row.cells)]
    if not others or not _ended(rows, rule, read):
        return rule.min
    contrasts = import_module("analysis.statistics.contrasts")  # by name: nothing here depends on the analysis
    groups = [
        contrasts.Group(tuple(_accuracies(row, rule, read)), frozenset(cell.id for cell in row.cells))
        for row in (base, *others)
    ]
    needed: int = contrasts.seeds_needed(groups, 0, rule.until.ci_halfwidth, most)
    return max(rule.min, needed)


def _accuracies(row: PlanRow, rule: AdaptiveSeeds, read: Read) -> list[float]:
    """Percent, of the first seeds that have a result."""
    records = (read(cell.id) for cell in row.cells[: rule.min])
    metric = headline(row.predict)
    return [
        100 * r.final[metric] for r in records if r is not None and r.status is Status.FINISHED and metric in r.final
    ]


def describe(plan: Plan, read: Read) -> str:
    """The rule and what came of it, for the report; empty if the number of seeds was fixed."""
    rule = plan.loaded.spec.seeds
    if not isinstance(rule, AdaptiveSeeds):
        return ""
    text = (
        f"{rule.min} to {rule.max}: the spread of the first {rule.min} decides how many all rows get, so that the 95 % "
        f"intervals of all differences to the reference are within ±{rule.until.ci_halfwidth:g} points (Stein's two-stage rule)"
    )
    found = []
    for rows in _by_setting(plan):
        if not _ended(rows, rule, read):
            continue
        needed = _needed(rows, plan.reference, rule, read, 10**6)
        where = f"{rows[0].setting}: " if rows[0].setting else ""
        found.append(f"{where}{needed} needed" + (f", {rule.max} taken" if needed > rule.max else ""))
        found += [f"“{row.label}” has no two results" for row in _hopeless(rows, rule, read)]
    return "; ".join([text, *found])
