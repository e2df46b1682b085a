"""The calibration and cost table: means over seeds of what the trials logged about themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.read.selection import Run, value
from analysis.tables.ablation import AblationTable
from analysis.tables.record import Column, Table
from ltsearch.store.records import (
    AVERAGE_RIGHT,
    ENSEMBLE_ECE,
    EXPERT_RIGHT,
    IMAGES_PER_SECOND,
    KL_COPIES,
    KL_EXPERTS,
    PARAMETERS,
    PEAK_MEMORY,
    SINGLE_ECE,
    STEP_GMACS,
    TEST,
    TEST_GMACS,
    TOTAL_SECONDS,
    TRAIN,
    TRAIN_GMACS,
    WORST_CLASS,
)

_SUMMARIES = {
    "class_harmonic_mean": "harmonic mean",
    "class_geometric_mean": "geometric mean",
    WORST_CLASS: "worst class",
}
CLASSES: dict[str, tuple[str, str, str]] = {  # CSV name: metric, heading, format
    **{f"single_{name}": (f"{TEST}single_{name}", heading, ".2f") for name, heading in _SUMMARIES.items()},
    "expert_right": (TEST + EXPERT_RIGHT, "expert right, average wrong", ".0f"),
    "average_right": (TEST + AVERAGE_RIGHT, "average right, expert wrong", ".0f"),
    "train_top1": (f"{TRAIN}top1", "train acc.", ".2f"),
    "single_ece": (TEST + SINGLE_ECE, "ECE single", ".4f"),
    "ensemble_ece": (TEST + ENSEMBLE_ECE, "ECE ensemble", ".4f"),
    "kl_experts": (TEST + KL_EXPERTS, "KL experts", ".4f"),
    "kl_copies": (TEST + KL_COPIES, "KL copies", ".4f"),
}
COSTS: dict[str, tuple[str, str, str]] = {
    "parameters_m": (PARAMETERS, "parameters (M)", ".2f"),
    "test_gmacs": (TEST_GMACS, "test (G)", ".3g"),
    "test_ensemble_gmacs": (TRAIN_GMACS, "test, ensemble (G)", ".3g"),  # both are K times one expert's
    "train_gmacs": (TRAIN_GMACS, "train (G)", ".3g"),
    "step_gmacs": (STEP_GMACS, "step (G)", ".3g"),
    "seconds": (TOTAL_SECONDS, "seconds a trial", ".1f"),
    "images_per_second": (IMAGES_PER_SECOND, "images/s", ".0f"),
    "peak_memory_mib": (PEAK_MEMORY, "peak memory (MiB)", ".0f"),
}
COLUMNS = CLASSES | COSTS
_OF_HARDWARE = {TOTAL_SECONDS, IMAGES_PER_SECOND, PEAK_MEMORY}  # compared within a session on the same hardware only
HOW_TO_READ_CLASSES = (
    "Means over the seeds of the table above. Harmonic and geometric mean, worst class: of the class accuracies of one expert, "
    "in percent. Expert right, average wrong (and the other way round): test images on which one expert and the average of all "
    "disagree, mean over experts. Train acc.: accuracy on augmented training images in the last epoch, in percent. ECE: "
    "expected calibration error, 15 bins, as a fraction. KL: mean pairwise distance on test images, in nats, between experts "
    "and between two augmented copies."
)
HOW_TO_READ_COSTS = (
    "Parameters: of one expert, in millions. Test: 10⁹ multiply-adds of one expert on one image; test, ensemble: of all K "
    "experts; train: K times one expert's too, as papers print it; step: what a training step really takes per image, forward "
    "and backward, K experts and T copies. Times and memory are of runs of one session on the same hardware."
)
_SAME = 1.01
_UNITS = {PEAK_MEMORY: 1 / 2**20, PARAMETERS: 1e-6, f"{TRAIN}top1": 100.0}
_UNITS |= {f"{TEST}single_{name}": 100.0 for name in _SUMMARIES}


@dataclass(frozen=True)
class CostRow:
    """Means by name of ``COLUMNS``; None where nothing was logged. ``timed``: are its times of the table's session?"""

    name: str
    n: int
    means: dict[str, float | None]
    timed: bool = True


def build(tables: Sequence[AblationTable]) -> tuple[CostRow, ...]:
    """One row for the same trials, under all the names that they have."""
    named: dict[tuple[str, ...], tuple[list[str], Mapping[int, Run]]] = {}
    for table in tables:
        for row in table.rows:
            runs = table.selection.runs[row.name]
            if runs:
                key = tuple(str(run["cell"]) for run in runs.values())
                name = f"{row.name} ({table.subset})" if table.subset and len(tables) > 1 else row.name
                named.setdefault(key, ([], runs))[0].append(name)
    sessions = Counter(str(run["timed"]) for _, runs in named.values() for run in runs.values())
    session = sessions.most_common(1)[0][0] if sessions else ""
    return tuple(_row(" / ".join(names), runs, session) for names, runs in named.values())


def _row(name: str, runs: Mapping[int, Run], session: str) -> CostRow:
    there = [run for run in runs.values() if run["timed"] == session]
    means: dict[str, float | None] = {}
    for key, (metric, _, _) in COLUMNS.items():
        of = there if metric in _OF_HARDWARE else runs.values()
        found = [v for run in of if (v := value(run, metric)) is not None]
        means[key] = sum(found) / len(found) * _UNITS.get(metric, 1.0) if found else None
    return CostRow(name, len(runs), means, bool(there))


def to_tables(rows: Sequence[CostRow]) -> tuple[Table, Table]:
    """Classes and calibration, and costs, as printed; columns of which nothing was logged are left out."""
    others = [f"“{row.name}”" for row in rows if not row.timed]
    notes = [f"Times of {', '.join(others)} are of another session or other hardware: not shown."] if others else []
    notes += [
        f"Of equal compute, {cost:.3g} · 10⁹ multiply-adds a step and image: {', '.join(f'“{name}”' for name in names)}."
        for cost, names in equal_compute(rows)
    ]
    classes = _table(rows, CLASSES, "classes", "Accuracy over classes, and calibration", [])
    return classes, _table(rows, COSTS, "costs", "Cost of training and of a prediction", notes)


def equal_compute(rows: Sequence[CostRow]) -> list[tuple[float, list[str]]]:
    """Rows whose training steps cost the same to 1 %, by what they cost; those that no other row equals are left out."""
    found: list[tuple[float, list[str]]] = []
    costs = [(step, row.name) for row in rows if (step := row.means["step_gmacs"]) is not None]
    for cost, name in sorted(costs, key=lambda pair: pair[0]):
        if found and cost <= _SAME * found[-1][0]:
            found[-1][1].append(name)
        else:
            found.append((cost, [name]))
    return [(cost, names) for cost, names in found if len(names) > 1]


def _table(
    rows: Sequence[CostRow], keys: Mapping[str, tuple[str, str, str]], name: str, caption: str, notes: Sequence[str]
) -> Table:
    there = [key for key in keys if any(row.means[key] is not None for row in rows)]
    columns = [Column("row", ""), Column("n", "n", format="d")]
    columns += [Column(key, keys[key][1], format=keys[key][2]) for key in there]
    made = tuple((r.name, r.n, *(r.means[key] for key in there)) for r in rows)
    return Table(name, caption, tuple(columns), made, tuple(notes))
