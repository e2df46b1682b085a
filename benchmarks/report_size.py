"""How a report's time and memory grow with the number of logged trials."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, Spread
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.store.cells import CellStore
from ltsearch.store.ids import cell_id, recipes
from ltsearch.store.records import (
    GROUPS,
    PLAN_ARTIFACT,
    SEARCH_ARTIFACT,
    CellRecord,
    Epoch,
    PlanRecord,
    SearchRecord,
    SearchTrial,
    Status,
)
from ltsearch.study.spec import load
from ltsearch.tracking import background
from ltsearch.tracking.writer import Tracker
from trainables.files import write_text

TITLE = "Report"
SECONDS, GIGABYTES, GROWTH = 20, 0.6, 1.25
ROWS = 20
_STUDY = """
name: size
base:
  data: {name: digits, imbalance: {factor: 10}}
  training: {epochs: 3}
seeds: %d
ablation: {grid: {axes: {method.beta: [%s]}}}
search:
  val_per_class: 5
  trials: %d
  confirm: null
  space: {method.lambda_inter: {uniform: [0, 1]}}
"""


def run(quick: bool) -> list[Row]:
    sizes = (100, 400) if quick else (1250, 5000)
    rows, each = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fill(folder, size)
            seconds, gigabytes = measure(folder)
        each.append(seconds / size)
        last = size == 5000
        what = f"{size:,} logged trials, half of them a search's"
        rows += [
            _row(f"{what}: report", "s", seconds, SECONDS if last else None),
            _row(f"{what}: peak memory", "GB", gigabytes, GIGABYTES if last else None),
        ]
    growth = each[1] / each[0]
    met = growth <= GROWTH
    rows.append(
        Row(
            "time per trial, the larger over the smaller",
            ratio=Spread(growth, growth, growth),
            target=f"≤ {GROWTH}",
            met=None if quick else met,
        )
    )
    return rows


def _row(what: str, unit: str, value: float, target: float | None) -> Row:
    spread = Spread(value, value, value)
    return Row(what, unit, spread, target=f"≤ {target:g}" if target else "", met=value <= target if target else None)


def fill(folder: Path, size: int) -> None:
    """A store as a sweep's driver leaves it, through the same writer, from records with made-up numbers."""
    seeds, values = size // 2 // ROWS, ", ".join(f"{i / ROWS:g}" for i in range(1, ROWS + 1))
    spec = folder / "study.yaml"
    spec.write_text(_STUDY % (seeds, values, size // 2))
    plan = make_plan(load(spec))
    store = CellStore(folder / "store")
    tracker = Tracker(f"sqlite:///{folder}/mlflow.db", "size", "size", store, warn=print)
    record = PlanRecord(
        sweep="size",
        name="size",
        profile=None,
        question="",
        rows=[r.record() for r in plan.rows],
        reference=plan.reference,
    )
    background.GIVE_UP_SECONDS = 3600.0  # a sweep writes as it goes; here all of it comes at its end
    tracker.open(record)
    random = np.random.default_rng(0)
    named = [(cell.id, "ablation", f"seed {cell.seed}") for cell in plan.cells]
    for cell in plan.cells:
        store.write(_record(cell.id, cell.config.model_dump(mode="json"), recipes(cell.config), random))
    search = _search(plan, size // 2, store, random)
    named += [(trial.cell, "search", f"trial {trial.number}") for trial in search.trials]
    tracker.rebuild(named)
    tracker.close(Status.FINISHED, [cell for cell, _, _ in named], record, search)
    write_text(store.sweep_folder("size") / PLAN_ARTIFACT, record.model_dump_json())
    write_text(store.sweep_folder("size") / SEARCH_ARTIFACT, search.model_dump_json())


def _record(cell: str, config: dict[str, object], versions: dict[str, int], random: np.random.Generator) -> CellRecord:
    history = []
    for epoch in range(1, 4):
        accuracy = float(random.normal(0.5, 0.02))
        metrics = {"train/loss": 1.0, "train/top1": accuracy, "seconds": 1.0, "train/images_per_second": 1000.0}
        for split in ("test", "val"):
            metrics |= {f"{split}/{kind}_top1": accuracy for kind in ("single", "ensemble")}
            metrics |= {f"{split}/{kind}_{g}": accuracy for kind in ("single", "ensemble") for g in GROUPS}
        history.append(Epoch(epoch=epoch, metrics=metrics))
    return CellRecord(
        cell=cell,
        config=config,
        recipes=versions,
        status=Status.FINISHED,
        fingerprint="f" * 16,
        class_counts=[10] * 10,
        class_names=[str(j) for j in range(10)],
        started=1.0,
        ended=4.0,
        history=history,
        per_class={"test/single": [0.5] * 10},
    )


def _search(plan: Plan, trials: int, store: CellStore, random: np.random.Generator) -> SearchRecord:
    assert plan.search_base is not None
    versions = recipes(plan.search_base)
    made = []
    for number in range(trials):
        config = plan.search_base.model_copy(update={"seed": 1_000_000 + number})
        cell = cell_id(config)
        store.write(_record(cell, config.model_dump(mode="json"), versions, random))
        value = float(random.normal(0.5, 0.02))
        params = {"method.lambda_inter": float(random.uniform())}
        made.append(
            SearchTrial(
                number=number, params=params, values=[value], state="finished", epochs=3, cell=cell, seconds=3.0
            )
        )
    return SearchRecord(
        metrics=["val/ensemble_top1"],
        directions=["max"],
        sampler="tpe",
        early_stopping="none",
        space={"method.lambda_inter": "uniform [0, 1]"},
        trials=made,
        importances={},
        best=[t.number for t in sorted(made, key=lambda t: -(t.values or [0.0])[0])],
        stopped_by=f"{trials} trials",
    )


def measure(folder: Path) -> tuple[float, float]:
    """Seconds and gigabytes of the command, in a process of its own."""
    words = ["study.yaml", "--storage", str(folder / "store"), "--out", str(folder / "report")]
    words += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    code = "import sys; from analysis.report import main; from benchmarks.measure import peak_memory; "
    code += "main(sys.argv[1:]); print(peak_memory())"
    started = time.perf_counter()
    root = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={"PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - started
    return seconds, float(done.stdout.split()[-1])
