"""Adaptive seeds: further seeds only for rows whose difference to the reference is not yet known well enough.

What a row gets follows from the records of what has finished, and from nothing else: a sweep that goes on after a crash comes
to the same seeds as one that was not disturbed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import stdev

from ltsearch.plan import Plan, PlanRow
from ltsearch.records import SETTLED, CellRecord, Status, headline
from ltsearch.spec import AdaptiveSeeds

Read = Callable[[str], CellRecord | None]


def seeds_now(plan: Plan, read: Read) -> dict[str, int]:
    """How many seeds every row gets, by label, as far as that can be told from the records that ``read`` finds.

    All rows get ``min``. Once these have ended, a row whose interval is too wide gets one more, and so on up to ``max``; the
    reference of a setting gets as many as any of its rows, since differences are paired by seed.
    """
    rule = plan.loaded.spec.seeds
    if not isinstance(rule, AdaptiveSeeds):
        return {row.label: len(row.cells) for row in plan.rows}
    counts: dict[str, int] = {}
    for setting in dict.fromkeys(row.setting for row in plan.rows):
        rows = [row for row in plan.rows if row.setting == setting]
        counts |= _of_setting(rows, plan.reference, rule, read)
    return counts


def _of_setting(rows: Sequence[PlanRow], reference: str | None, rule: AdaptiveSeeds, read: Read) -> dict[str, int]:
    counts = {row.label: rule.min for row in rows}
    base = next(row for row in rows if row.name == reference)
    while True:
        records = {cell.id: read(cell.id) for row in rows for cell in row.cells[: counts[row.label]]}
        if any(record is None or record.status not in SETTLED for record in records.values()):
            return counts  # not all of them have ended
        wide = []
        for row in rows:
            half = half_width(row, base, counts[row.label], read)
            # A row without two pairs cannot finish: more seeds would not make it.
            if row is not base and counts[row.label] < rule.max and rule.until.ci_halfwidth < half < math.inf:
                wide.append(row)
        if not wide:
            return counts
        for row in wide:
            counts[row.label] += 1
        counts[base.label] = max(counts.values())


def half_width(row: PlanRow, base: PlanRow, seeds: int, read: Read) -> float:
    """Half the 95 % t-interval of the difference paired by seed, in percentage points; infinite for fewer than 2 pairs."""
    values, reference = _accuracies(row, seeds, read), _accuracies(base, seeds, read)
    pairs = [100 * (values[seed] - reference[seed]) for seed in values if seed in reference]
    if len(pairs) < 2:
        return math.inf
    from scipy.stats import t as student  # not at the top: a plan is printed without it

    return float(student.ppf(0.975, len(pairs) - 1)) * stdev(pairs) / math.sqrt(len(pairs))


def _accuracies(row: PlanRow, seeds: int, read: Read) -> dict[int, float]:
    metric = headline(row.predict)
    found = {}
    for cell in row.cells[:seeds]:
        record = read(cell.id)
        if record is not None and record.status is Status.FINISHED and metric in record.final:
            found[cell.seed] = record.final[metric]
    return found


def describe(plan: Plan, read: Read) -> str:
    """The rule and what came of it, for the report; empty if the number of seeds was fixed."""
    rule = plan.loaded.spec.seeds
    if not isinstance(rule, AdaptiveSeeds):
        return ""
    counts = seeds_now(plan, read)
    text = (
        f"{rule.min} to {rule.max} seeds: a row was given further ones until the 95 % interval of its difference to the "
        f"reference was within ±{rule.until.ci_halfwidth:g} points"
    )
    left = []
    for row in plan.rows:
        base = next(r for r in plan.rows if r.setting == row.setting and r.name == plan.reference)
        half = half_width(row, base, counts[row.label], read)
        if row is not base and half > rule.until.ci_halfwidth:
            left.append(f"{row.label} (±{half:.2f} with {counts[row.label]})" if math.isfinite(half) else row.label)
    return text + (f"; not reached by {', '.join(left)}" if left else "; all rows reached that")
