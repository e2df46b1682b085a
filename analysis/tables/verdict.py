"""What a report begins with: claims, the difference that the paper prints, ours with its interval, and whether they hold.

A study names its claims (``report.claims``), which are judged as one family. Without any, they are the differences to the
reference that its published counterparts have in print, judged by the intervals of the table below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis import markdown
from analysis.published import numbers
from analysis.published.numbers import Number
from analysis.read.selection import Run
from analysis.statistics.contrasts import Group, simultaneous
from analysis.statistics.seeds import ALPHA, MIN_SEEDS, Difference, paired
from analysis.tables.ablation import AblationTable, percent
from ltsearch.store.records import TEST, Claim, PlannedRow, PlanRecord, headline

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told at this size"
_PLURAL = {HOLDS: "hold", FAILS: "do not hold"}
SHOWN = 12  # claims that stand in the box; the others are folded below it
HOW_TO_READ = (
    "A claim holds if the whole interval of the difference lies on its side of zero, does not hold if the whole interval lies "
    "on the other side or below the smallest difference worth seeing, and cannot be told otherwise. Intervals are 95 %, of "
    "all claims of a table at once. The paper's difference is that of its own two numbers, whatever they were trained on."
)
_METRICS = {
    "accuracy": "",
    "many": ", many-shot classes",
    "medium": ", medium-shot classes",
    "few": ", few-shot classes",
}
_METRICS |= {"ece": ", expected calibration error (points)"}


@dataclass(frozen=True)
class Verdict:
    """One claim. ``paper``: the printed difference with its source; ``detectable``: what would surely have been found."""

    claim: str
    where: str  # the table
    ours: Difference | None
    paper: float | None
    source: str
    says: str
    detectable: float | None = None


def build(plan: PlanRecord, tables: Sequence[AblationTable]) -> list[Verdict]:
    """In the order of the study."""
    return _claimed(plan.claims, tables) if plan.claims else [v for table in tables for v in _printed(table)]


def judge(ours: Difference | None, direction: int = 1, at_least: float = 0.0) -> str:
    """``HOLDS``, ``FAILS`` or ``OPEN`` of the claim that the difference has this sign and is at least so large."""
    if ours is None or ours.interval is None:
        return OPEN
    low, high = sorted(direction * bound for bound in ours.interval)
    if low > 0:
        return HOLDS
    return FAILS if high < max(0.0, at_least) else OPEN


# -- the paper's own differences -----------------------------------------------------------------------------------------


def _printed(table: AblationTable) -> list[Verdict]:
    planned = {row.name: row for row in table.planned}
    reference = planned.get(table.reference)
    found = []
    for row in table.rows:
        printed = _difference(planned[row.name], reference) if reference is not None else None
        if printed is None or row.difference is None or row.name == table.reference:
            continue
        gap, number = printed
        direction = 1 if gap > 0 else -1
        sense = "better" if gap > 0 else "worse"
        claim = f"{row.name} is {sense} than {table.reference}"
        says = judge(row.difference, direction)
        found.append(Verdict(claim, table.subset, row.difference, gap, number.source, says, table.detectable))
    return found


def _difference(row: PlannedRow, reference: PlannedRow) -> tuple[float, Number] | None:
    """What a paper prints between the two rows' counterparts in the column nearest to ours; None without, or if equal."""
    if row.published is None or reference.published is None:
        return None
    theirs = {_column(n): n for n in numbers.find(reference.published)}
    pairs = [(n, theirs[_column(n)]) for n in numbers.find(row.published) if _column(n) in theirs]
    if not pairs:
        return None
    number, other = min(pairs, key=lambda pair: len(numbers.deviations(pair[0], row.config)))
    gap = round(number.value - other.value, 6)
    return (gap, number) if gap else None


def _column(n: Number) -> tuple[object, ...]:
    return n.paper, n.table, n.dataset, n.imbalance, n.backbone, n.epochs, n.augmentation, n.data_ratio


# -- claims of the study ---------------------------------------------------------------------------------------------------


def _claimed(claims: Sequence[Claim], tables: Sequence[AblationTable]) -> list[Verdict]:
    """Claims of one table and metric are a family; families share the 5 % by how many claims they have."""
    families: dict[tuple[int, str], list[int]] = {}
    for i, claim in enumerate(claims):
        at = _table_of(claim, tables)
        if at is not None:
            families.setdefault((at, claim.metric), []).append(i)
    found: dict[int, Verdict] = {}
    for (at, metric), members in families.items():
        asked = [claims[i] for i in members]
        made = _family(asked, tables[at], metric, ALPHA * len(members) / len(claims))
        found |= dict(zip(members, made, strict=True))
    return [
        found.get(i) or Verdict(_text(claim), claim.setting or "", None, None, "", OPEN)
        for i, claim in enumerate(claims)
    ]


def _table_of(claim: Claim, tables: Sequence[AblationTable]) -> int | None:
    """The first table of the claim's setting that has both rows."""
    for at, table in enumerate(tables):
        names = {row.name for row in table.planned}
        if (claim.setting is None or table.setting == claim.setting) and {claim.row, claim.reference} <= names:
            return at
    return None


def _family(claims: Sequence[Claim], table: AblationTable, metric: str, alpha: float) -> list[Verdict]:
    planned = {row.name: row for row in table.planned}
    values = {name: _values(row, table.selection.runs.get(name, {}), metric) for name, row in planned.items()}
    cells = {name: frozenset(cell.cell for cell in row.cells) for name, row in planned.items()}
    names = [name for name in planned if values[name]]
    judged: list[Difference | None] = [None] * len(claims)
    free = []
    for i, claim in enumerate(claims):
        a, b = claim.row, claim.reference
        if not values[a] or not values[b]:
            continue
        if cells[a] & cells[b]:
            judged[i] = paired(values[a], values[b], alpha, len(claims))
        else:
            free.append(i)
    detectable = None
    if free:
        groups = [Group(tuple(values[name].values()), cells[name]) for name in names]
        contrasts = []
        for i in free:
            row = [0.0] * len(names)
            row[names.index(claims[i].row)], row[names.index(claims[i].reference)] = 1.0, -1.0
            contrasts.append(row)
        family = simultaneous(groups, contrasts, alpha * len(free) / len(claims))
        detectable = family.detectable[1] if family.detectable is not None else None
        for i, found in zip(free, family.differences, strict=True):
            judged[i] = found
    made = []
    for claim, difference in zip(claims, judged, strict=True):
        printed = _difference(planned[claim.row], planned[claim.reference]) if metric == "accuracy" else None
        says = judge(difference, -1 if metric == "ece" else 1, claim.at_least)
        paper, source = (printed[0], printed[1].source) if printed is not None else (None, "")
        made.append(Verdict(_text(claim), table.subset, difference, paper, source, says, detectable))
    return made


def _values(row: PlannedRow, runs: Mapping[int, Run], metric: str) -> dict[int, float]:
    """Percent by seed."""
    name = headline(row.predict) if metric == "accuracy" else f"{TEST}{row.predict}_{metric}"
    return percent(runs, name)


def _text(claim: Claim) -> str:
    return claim.claim or f"{claim.row} is better than {claim.reference}{_METRICS[claim.metric]}"


# -- Markdown ----------------------------------------------------------------------------------------------------------


def render(verdicts: Sequence[Verdict]) -> str:
    """How many hold, and the claims; empty without any."""
    if not verdicts:
        return ""
    counts = {says: sum(v.says == says for v in verdicts) for says in (HOLDS, FAILS, OPEN)}
    if len(verdicts) == 1:
        lines = [f"**The claim {verdicts[0].says}.**"]
    else:
        told = ", ".join(f"{n} {says if n == 1 else _PLURAL.get(says, says)}" for says, n in counts.items() if n)
        lines = [f"**Of {len(verdicts)} claims {told}.**"]
    tables = [_table(verdicts[:SHOWN])]
    if len(verdicts) > SHOWN:
        more = _table(verdicts[SHOWN:])
        tables.append(f"<details><summary>{len(verdicts) - SHOWN} more</summary>\n\n{more}\n\n</details>")
    return "\n\n".join([*lines, *tables])


def render_csv(verdicts: Sequence[Verdict]) -> str:
    """A line a claim; differences in points."""
    header = ["row", "setting", "paper", "source", "difference", "low", "high", "seeds", "p", "verdict"]
    rows = []
    for v in verdicts:
        low, high = v.ours.interval if v.ours is not None and v.ours.interval is not None else (None, None)
        ours = (v.ours.mean, low, high, v.ours.n, v.ours.p) if v.ours is not None else (None,) * 5
        rows.append([v.claim, v.where, v.paper, v.source, *ours, v.says])
    return markdown.csv_text(header, rows)


def _table(verdicts: Sequence[Verdict]) -> str:
    where = len({v.where for v in verdicts}) > 1
    paper = any(v.paper is not None for v in verdicts)
    header = ["claim", *(["setting"] if where else []), *(["paper"] if paper else []), "here", "verdict"]
    rows = []
    for v in verdicts:
        cells = [v.claim, *([v.where] if where else [])]
        if paper:
            cells.append(f"{markdown.signed(v.paper)} ({v.source})" if v.paper is not None else markdown.ABSENT)
        rows.append([*cells, markdown.difference(v.ours) if v.ours is not None else markdown.ABSENT, _says(v)])
    return "\n".join(markdown.table(header, rows, left=len(header)))


def _says(v: Verdict) -> str:
    """The verdict, and of an open one why it is open."""
    if v.says != OPEN:
        return f"{v.says}; smaller than the paper's" if v.says == HOLDS and _smaller(v) else v.says
    if v.ours is None:
        return f"{OPEN}: not all of it has run"
    if v.ours.interval is None:
        return f"{OPEN}: fewer than {MIN_SEEDS} seeds" if v.ours.n < MIN_SEEDS else f"{OPEN}: no spread over seeds"
    return f"{OPEN}: from {v.detectable:.1f} points on it could" if v.detectable is not None else OPEN


def _smaller(v: Verdict) -> bool:
    if v.paper is None or v.ours is None or v.ours.interval is None:
        return False
    return max(abs(bound) for bound in v.ours.interval) < abs(v.paper)
