"""The ablation table: rows as named, mean ± std over seeds, differences to the reference, shot groups, published numbers.

Accuracies are in percent, differences in percentage points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis.markdown import p_value
from analysis.published import numbers as published_numbers
from analysis.published.numbers import Number
from analysis.read.labels import printed
from analysis.read.selection import Absent, Run, Selection, select, value
from analysis.statistics.contrasts import Family, Group, simultaneous, to_reference
from analysis.statistics.seeds import ALPHA, Difference, Summary, paired, summarize
from analysis.tables.record import HOW_TO_READ_DIFFERENCES
from ltsearch.store.records import BEST_ON_TEST, GROUPS, TEST, PlannedRow, PlanRecord, headline

BEST_EPOCH = "best epoch on test"  # a column's heading
HOW_TO_READ = (
    "Top-1 accuracy in percent, every class counted alike, mean ± sample standard deviation over seeds. Acc. is what a "
    "row predicts with: one expert (the mean over experts) or, in rows named so, their ensemble; many, medium and few "
    f"belong to Acc. {HOW_TO_READ_DIFFERENCES}"
)
SEVERAL_TABLES = (
    "Intervals and p hold for all differences of one table, but not of all tables: of many some have a `*` by chance."
)


@dataclass(frozen=True)
class AblationRow:
    """One row; ``published`` only where the comparison is fair.

    ``scores``: single, ensemble (None for one expert) and the shot groups.

    ``best_epoch``: accuracy in the best evaluated epoch on the test set, where several were evaluated. ``over_images``: the
    mean over images instead of classes, where the test set is unbalanced, so that they are not the same.
    """

    name: str
    predict: str
    planned: int  # seeds
    seeds: tuple[int, ...]
    accuracy: Summary | None
    difference: Difference | None  # None for the reference
    scores: dict[str, Summary | None]
    published: Number | None = None
    published_difference: float | None = None
    best_epoch: Summary | None = None
    over_images: Summary | None = None


@dataclass(frozen=True)
class AblationTable:
    """Rows that may be compared. ``subset`` says what sets this table apart if the study has several.

    ``setting`` is the plan's name of it, empty where the plan has none.
    """

    subset: str
    rows: tuple[AblationRow, ...]
    reference: str
    absent: tuple[Absent, ...]
    footnotes: tuple[str, ...]
    selection: Selection
    setting: str = ""
    planned: tuple[PlannedRow, ...] = ()
    detectable: float | None = None  # the smallest true difference to the reference that would surely (80 %) be found


def how_to_read(tables: Sequence[AblationTable]) -> str:
    """What stands above the tables."""
    return f"{HOW_TO_READ} {SEVERAL_TABLES}" if len(tables) > 1 else HOW_TO_READ


def build(plan: PlanRecord, cells: Mapping[str, Run]) -> list[AblationTable]:
    """One table for every setting, and for every dataset setting and number of epochs: those never share a table."""
    groups: dict[tuple[str, str], list[PlannedRow]] = {}
    for row in plan.rows:
        groups.setdefault((row.setting, json.dumps(_setting(row), sort_keys=True)), []).append(row)
    tables = []
    for (setting, _), rows in groups.items():
        here = [_setting(others[0]) for (name, _), others in groups.items() if name == setting]
        varying = [key for key in {k: None for s in here for k in s} if len({str(s.get(key)) for s in here}) > 1]
        parts = [setting] if setting else []
        parts += [f"{key} = {_setting(rows[0]).get(key)}" for key in varying]
        tables.append(_table(", ".join(parts), rows, plan, cells))
    return tables


def _setting(row: PlannedRow) -> dict[str, Any]:
    """Return what all rows of a table share, by dotted key."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                walk(f"{prefix}.{key}", child)
        else:
            flat[prefix] = node

    walk("data", row.config.get("data", {}))
    flat["training.epochs"] = row.config.get("training", {}).get("epochs")
    return flat


def trained_on(rows: Sequence[PlannedRow]) -> str:
    """``CIFAR-10 (exponential, imbalance factor 100, 16 px), ResNet-8, 40 epochs``: what the rows of a table share.

    Every backbone is named if they have several.
    """
    data = rows[0].config.get("data", {})
    imbalance = data.get("imbalance", {})
    profile, image_size = imbalance.get("profile"), data.get("image_size")
    details = []
    if profile == "natural":
        details.append("natural counts")
    elif profile is not None:
        balanced = imbalance["factor"] == 1
        details.append("balanced" if balanced else f"{profile}, imbalance factor {imbalance['factor']:g}")
    if data.get("data_ratio", 1) != 1:
        details.append(f"data ratio {data['data_ratio']:g}")
    if image_size is not None:
        how = data.get("interpolation", "bilinear")
        details.append(f"{image_size} px" if how == "bilinear" else f"{image_size} px ({how})")
    if data.get("val_per_class"):
        details.append(f"without {data['val_per_class']} validation images a class")
    if imbalance.get("subset_seed"):
        details.append(f"subset seed {imbalance['subset_seed']}")
    name = Path(data["path"]).name if data.get("path") else data.get("name", "unknown data")
    backbones = list(dict.fromkeys(row.config.get("model", {}).get("backbone") for row in rows))
    parts = [f"{printed(name)} ({', '.join(details)})" if details else printed(name)]
    parts += [" and ".join(printed(str(found)) for found in backbones if found is not None)]
    parts += [f"{rows[0].config.get('training', {}).get('epochs')} epochs"]
    return ", ".join(filter(None, parts))


def _table(subset: str, rows: Sequence[PlannedRow], plan: PlanRecord, cells: Mapping[str, Run]) -> AblationTable:
    reference = plan.reference
    selection = select(rows, cells)
    by_name = {row.name: row for row in rows}
    base = by_name.get(reference or "", rows[0])
    made = [_row(row, selection.runs[row.name]) for row in rows]
    found = differences(rows, base, selection.runs, plan.first_seeds)
    made = [replace(row, difference=found.by_row.get(row.name)) for row in made]
    answers = {row.name: answer for row in rows if (answer := _published(row)) is not None}
    made = [_with_published(row, answers.get(row.name)) for row in made]
    best_epoch = any(row.best_epoch is not None for row in made)
    notes = [*_deviations(rows, selection, base.name, plan, best_epoch), *found.notes, *_published_footnotes(answers)]
    return AblationTable(
        subset=subset,
        rows=tuple(made),
        reference=base.name,
        absent=selection.absent,
        footnotes=tuple(notes),
        selection=selection,
        setting=rows[0].setting,
        planned=tuple(rows),
        detectable=found.detectable,
    )


@dataclass(frozen=True)
class Differences:
    """To the reference, by row, and how they were judged."""

    by_row: dict[str, Difference]
    notes: tuple[str, ...]
    detectable: float | None = None  # of the contrast for which it is most


def differences(
    rows: Sequence[PlannedRow], base: PlannedRow, runs: Mapping[str, Mapping[int, Run]], first: int | None
) -> Differences:
    """Rows of the reference's own trials seed by seed, all others by Dunnett's test; both share the table's 5 %.

    Args:
        rows: the table's, ``base`` among them.
        base: the reference.
        runs: by row and seed.
        first: adaptive seeds: how many of every row decided how many followed.
    """
    values = {row.name: percent(runs[row.name], headline(row.predict)) for row in rows}
    cells = {row.name: frozenset(cell.cell for cell in row.cells) for row in rows}
    there = [row.name for row in rows if values[row.name]]
    if base.name not in there:
        return Differences({}, ())
    same = [name for name in there if name != base.name and cells[name] & cells[base.name]]
    other = [name for name in there if name != base.name and name not in same]
    tests = max(len(there) - 1, 1)
    by_row = {
        name: difference
        for name in same
        if (difference := paired(values[name], values[base.name], ALPHA, tests)) is not None
    }
    names = [base.name, *other]
    # All rows give their spread; of rows of the same trials each counts in part.
    planned = {row.name: row for row in rows}
    groups = [_group(planned[name], values[name], first) for name in [*names, *same]]
    contrasts = [row + [0.0] * len(same) for row in to_reference(len(names), 0)]
    family = simultaneous(groups, contrasts, ALPHA * len(other) / tests) if other else Family(())
    by_row |= dict(zip(other, family.differences, strict=True))
    most = family.detectable[1] if family.detectable is not None else None
    return Differences(by_row, tuple(_judged(family, bool(same), first)), most)


def _group(row: PlannedRow, values: Mapping[int, float], first: int | None) -> Group:
    order = [cell.seed for cell in row.cells]
    early = None if first is None else sum(seed in values for seed in order[:first])
    return Group(tuple(values[s] for s in order if s in values), frozenset(c.cell for c in row.cells), early)


def _judged(family: Family, same: bool, first: int | None) -> list[str]:
    """Which test it was, and what it could have found."""
    notes = []
    if family.welch is not None:
        notes.append(
            f"Variances of the rows differ (Brown-Forsythe, {p_value(family.welch)}): differences by Welch's test with Holm's "
            "correction, intervals by Bonferroni's."
        )
    elif family.detectable is not None:
        spread = f", the spread that of the first {first} seeds (Stein)" if first is not None else ""
        notes.append(f"Differences by Dunnett's test, {family.freedom:g} degrees of freedom{spread}.")
    if same:
        notes.append("Rows of the reference's own trials are compared with it seed by seed.")
    if family.detectable is not None:
        low, high = (f"{value:.2f}" for value in family.detectable)
        size = low if low == high else f"{low} to {high}"
        notes.append(f"Smallest true difference to the reference that this table finds with 80 % power: {size} points.")
    return notes


def _deviations(
    rows: Sequence[PlannedRow], selection: Selection, reference: str, plan: PlanRecord, best_epoch: bool
) -> list[str]:
    """What a reader of the table must know.

    What was trained on, how epochs were chosen, missing seeds, rows that differ in more than they say.
    """
    epochs = rows[0].config.get("training", {}).get("epochs")
    chosen = f", but for the column “{BEST_EPOCH}”" if best_epoch else ""
    notes = [
        f"Trained on {trained_on(rows)}.",
        f"All numbers are of the last of {epochs} epochs; nothing was selected on the test set{chosen}.",
    ]
    for row in rows:
        missing = [absent for absent in selection.absent if absent.row == row.name]
        if missing:
            why = "; ".join(f"seed {absent.seed} {absent.reason}" for absent in missing)
            notes.append(f"“{row.name}”: {len(row.cells) - len(missing)} of {len(row.cells)} seeds: {why}.")
    for row in rows:
        if row.beyond:
            differs = ", ".join(f"{key} = {found}" for key, found in row.beyond.items())
            notes.append(f"“{row.name}” differs from “{reference}” in more than the studied axis: {differs}.")
    for row in rows:
        if row.also:
            same = ", ".join(f"“{name}”" for name in row.also)
            notes.append(f"“{row.name}” is also {same}: the same configuration, shown once.")
    alike: dict[tuple[int, int], list[str]] = {}
    for row in rows:
        if row.requires:
            count = len(row.requires)
            alike.setdefault((count, count // len(row.cells)), []).append(f"“{row.name}”")
    for (count, a_seed), names in alike.items():
        trials = "1 trial" if count == 1 else f"{count} trials"
        one = len(names) == 1
        who = names[0] if one else f"{', '.join(names[:-1])} and {names[-1]}"
        notes.append(
            f"{who} {'needs' if one else 'need'} {trials}{'' if one else ' each'} ({a_seed} a seed) trained before "
            f"{'it' if one else 'them'} (a teacher, a first stage); {'its' if one else 'their'} cost below leaves that out."
        )
    if plan.seeds_rule:
        notes.append(f"Seeds: {plan.seeds_rule}.")
    return notes


def _row(row: PlannedRow, runs: Mapping[int, Run]) -> AblationRow:
    values = percent(runs, headline(row.predict))
    metrics = {predict: headline(predict) for predict in ("single", "ensemble")}
    metrics |= {group: f"{TEST}{row.predict}_{group}" for group in GROUPS}
    scores = {name: summarize(percent(runs, metric)) for name, metric in metrics.items()}
    if row.config.get("model", {}).get("experts", 1) == 1 and scores["ensemble"] == scores["single"]:
        scores["ensemble"] = None  # of one expert there is none
    return AblationRow(
        name=row.name,
        predict=row.predict,
        planned=len(row.cells),
        seeds=tuple(sorted(values)),
        accuracy=summarize(values),
        difference=None,
        scores=scores,
        over_images=_over_images(row, runs),
        best_epoch=summarize(percent(runs, BEST_ON_TEST + headline(row.predict).removeprefix(TEST))),
    )


def _over_images(row: PlannedRow, runs: Mapping[int, Run]) -> Summary | None:
    images, classes = percent(runs, f"{TEST}{row.predict}_top1"), percent(runs, headline(row.predict))
    same = all(abs(images[seed] - classes[seed]) < 1e-6 for seed in images.keys() & classes.keys())
    return None if same else summarize(images)


def percent(runs: Mapping[int, Run], metric: str) -> dict[int, float]:
    """Percent by seed, of the runs that have the metric."""
    found = {seed: value(runs[seed], metric) for seed in sorted(runs)}
    return {seed: 100 * v for seed, v in found.items() if v is not None}


def _published(row: PlannedRow) -> tuple[Number, list[str]] | None:
    """Find the number that a row answers to, of several the one that differs least, and what differs."""
    if row.published is None:
        return None
    found = published_numbers.find(row.published)
    candidates = [(number, published_numbers.deviations(number, row.config)) for number in found]
    return min(candidates, key=lambda candidate: len(candidate[1]))


def _with_published(row: AblationRow, answer: tuple[Number, list[str]] | None) -> AblationRow:
    """Add the published number, where it may stand beside ours."""
    if answer is None or answer[1]:
        return row
    gap = row.accuracy.mean - answer[0].value if row.accuracy is not None else None
    return replace(row, published=answer[0], published_difference=gap)


def _published_footnotes(answers: Mapping[str, tuple[Number, list[str]]]) -> tuple[str, ...]:
    """Of every table that rows answer to: which rows are not compared and what differs; the notes of those that are."""
    notes: dict[tuple[str, str], list[str]] = {}
    for name, (number, differs) in answers.items():
        text = f"not compared, since ours has {', '.join(differs)}" if differs else number.note
        if text:
            there = "" if number.label == f"“{name}”" else f" (there {number.label})"
            notes.setdefault((number.source, text), []).append(f"“{name}”{there}")
    return tuple(f"{source}: {', '.join(rows)}: {text}." for (source, text), rows in notes.items())
