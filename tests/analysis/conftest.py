"""A real MLflow store, filled once a session as a sweep's driver fills one.

The study has six rows of three seeds, and every kind of trouble: a cell that has not run, one that diverged, one
trained on other data, one that was run twice, and a row whose runs were logged by another sweep in another experiment.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from ltsearch.store import records
from ltsearch.store.records import (
    CellRecord,
    ConfirmedTrial,
    Epoch,
    PlannedCell,
    PlannedRow,
    PlanRecord,
    Published,
    SearchRecord,
    SearchTrial,
    Status,
)
from tests.analysis.figure_requests import hundred, study  # noqa: F401 (fixtures)

SWEEP = "study@small"
SEEDS = (0, 1, 2)
COMMON = {"data": 1, "augmentation": 1, "model": 1, "loop": 1}
# Accuracies by row and seed: (single, ensemble), as fractions.
ACCURACY: dict[str, list[tuple[float, float]]] = {
    "CE": [(0.40, 0.40), (0.42, 0.42), (0.41, 0.41)],
    "BIL": [(0.48, 0.48), (0.50, 0.50), (0.493, 0.493)],
    "BIL + InterCL": [(0.47, 0.48), (0.44, 0.45), (0.0, 0.0)],
    "BIL + IntraCL": [(0.49, 0.49), (0.0, 0.0), (0.50, 0.50)],
    "random": [(0.99, 0.99), (0.405, 0.405), (0.40, 0.40)],
    "NCL++": [(0.52, 0.53), (0.53, 0.55), (0.525, 0.541)],
}


def config(**over: Any) -> dict[str, Any]:
    """What ``plan.json`` keeps of a configuration, as far as a report looks at it; dotted keys with ``__``."""
    tree: dict[str, Any] = {
        "data": {
            "name": "cifar100",
            "path": None,
            "image_size": None,
            "imbalance": {"profile": "exponential", "factor": 100.0, "subset_seed": 0},
            "data_ratio": 1.0,
            "val_per_class": 0,
        },
        "augmentation": {"policy": "auto", "copies": 4},
        "model": {"backbone": "resnet32", "experts": 2},
        "method": {"name": "ncl_pp"},
        "training": {"epochs": 400},
    }
    for key, value in over.items():
        node = tree
        *path, last = key.split("__")
        for part in path:
            node = node[part]
        node[last] = value
    return tree


ONE = {"model__experts": 1, "augmentation__copies": 1}  # what the paper's CE and BSCE have


def cell_of(row: str, seed: int) -> str:
    """A cell's id; the two NCL++ rows are the same cells."""
    return f"{row.removesuffix(' (ensemble)').lower().replace(' ', '')}-{seed}"


def planned(row: str, predict: str = "single", over: dict[str, Any] | None = None, answer: str = "") -> PlannedRow:
    """A row as the plan has it."""
    return PlannedRow(
        name=row,
        predict=predict,
        changes={},
        cells=[PlannedCell(cell=cell_of(row, seed), seed=seed) for seed in SEEDS],
        published=Published(paper="ncl_pp", table="7", row=answer, setting=predict) if answer else None,
        config=config(**(over or {})),
    )


def plan() -> PlanRecord:
    """The study."""
    return PlanRecord(
        sweep=SWEEP,
        name="study",
        profile="small",
        question="Which part of NCL++ matters?",
        notes="Notes stand *here*.",
        command="python -m ltsearch.sweep study.yaml --profile small",
        reference="CE",
        has_search=True,
        rows=[
            planned("CE", over={"method__name": "ce", **ONE}, answer="CE"),
            planned("BIL", over={"method__name": "bsce", "augmentation__policy": "sim", **ONE}, answer="BIL"),
            planned("BIL + InterCL"),
            planned("BIL + IntraCL"),
            planned("random"),
            planned("NCL++", answer="NCL++"),
            planned("NCL++ (ensemble)", "ensemble", answer="NCL++"),
        ],
    )


def search() -> SearchRecord:
    """Eight trials, two of them pruned, one failed; two winners confirmed with two seeds."""
    trials = [
        SearchTrial(
            number=i,
            params={
                "method.beta": round(0.1 * i, 1),
                "method.weights": ("fixed", "learnable")[i % 2],
                "optimizer.lr": 10**-i,
            },
            values=None if i == 7 else [0.30 + 0.02 * (i % 5)],
            state={3: "pruned", 6: "pruned", 7: "failed"}.get(i, "finished"),
            epochs=5 if i in (3, 6) else 20,
            cell=f"search-{i}",
            seconds=2.0,
        )
        for i in range(8)
    ]
    return SearchRecord(
        metrics=["val/ensemble_top1"],
        directions=["max"],
        sampler="tpe",
        early_stopping="ASHA (grace 1, factor 3)",
        space={
            "method.beta": "uniform [0, 1]",
            "method.weights": "choice learnable, fixed",
            "optimizer.lr": "loguniform [1e-07, 1]",
        },
        trials=trials,
        importances={"val/ensemble_top1": {"method.beta": 0.7, "optimizer.lr": 0.2, "method.weights": 0.1}},
        best=[4, 2, 1, 5, 0],
        confirmed=[
            ConfirmedTrial(
                number=number,
                params=trials[number].params,
                values=trials[number].values or [],
                cells=[PlannedCell(cell=f"confirm-{number}-{seed}", seed=seed) for seed in (0, 1)],
            )
            for number in (4, 2)
        ],
        stopped_by="8 trials",
    )


class Filler:
    """Writes runs as the driver does."""

    def __init__(self, folder: Path) -> None:
        """A new store."""
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.artifacts = (folder / "artifacts").as_uri()
        self.client = MlflowClient(tracking_uri=self.uri)
        self.clock = 1_700_000_000_000

    def experiment(self, name: str) -> str:
        """Make one."""
        return str(self.client.create_experiment(name, artifact_location=self.artifacts))

    def sweep(self, experiment: str, name: str, plan: PlanRecord | None, **artifacts: str) -> str:
        """A sweep's parent run; ``artifacts`` by name, without ``.json``."""
        tags = {records.TAG_ROLE: "sweep", records.TAG_SWEEP: name}
        run = self.client.create_run(experiment, run_name=name, tags=tags, start_time=self._tick())
        if plan is not None:
            self.client.log_text(run.info.run_id, plan.model_dump_json(), records.PLAN_ARTIFACT)
        for artifact, text in artifacts.items():
            self.client.log_text(run.info.run_id, text, f"{artifact}.json")
        return str(run.info.run_id)

    def trial(
        self,
        experiment: str,
        parent: str,
        cell: str,
        seed: int,
        *,
        sweep: str = SWEEP,
        accuracy: tuple[float, float] | None = None,
        status: Status = Status.FINISHED,
        error: str = "",
        fingerprint: str = "f" * 64,
        method: str = "ncl_pp",
        recipes: dict[str, int] | None = None,
        epochs: int = 400,
        record: bool = True,
    ) -> str:
        """A cell's run."""
        recipes = recipes or {**COMMON, f"method.{method}": 1}
        tags = {
            records.TAG_ROLE: "trial",
            records.TAG_PARENT: parent,
            records.TAG_SWEEP: sweep,
            records.TAG_STAGE: "ablation",
            records.TAG_CELL: cell,
            records.TAG_ROW: cell,
            records.TAG_SEED: str(seed),
            records.TAG_STATUS: str(status),
            records.TAG_EPOCHS: str(epochs),
            records.TAG_FINGERPRINT: fingerprint,
            records.TAG_RECIPES: json.dumps(recipes),
            **({records.TAG_ERROR: error} if error else {}),
        }
        run = self.client.create_run(experiment, tags=tags, start_time=self._tick())
        run_id = str(run.info.run_id)
        metrics = _metrics(accuracy, experts=2 if method == "ncl_pp" else 1) if accuracy else {"train/loss": 1.0}
        early = [Metric(name, 0.5 * value, self.clock, 1) for name, value in metrics.items()]
        late = [Metric(name, value, self.clock, 2) for name, value in metrics.items()]
        params = [Param("method.name", method), Param("training.epochs", str(epochs))]
        self.client.log_batch(run_id, metrics=early + late, params=params)
        self.client.log_metric(run_id, "total_seconds", 30.0, step=2)
        if record:
            history = [Epoch(epoch=2, metrics=metrics)]
            provenance = {"commit": "abc123", "torch": "2.14.0", "cpu": "a CPU, 2 usable"}
            whole = CellRecord(
                cell=cell,
                config={},
                recipes=recipes,
                status=status,
                fingerprint=fingerprint,
                class_counts=[500, 50, 5],
                history=history,
                provenance=provenance,
            )
            self.client.log_text(run_id, whole.model_dump_json(), records.RECORD_ARTIFACT)
        self.client.set_terminated(run_id, end_time=self.clock + 30_000)
        return run_id

    def _tick(self) -> int:
        self.clock += 60_000
        return self.clock


def _metrics(accuracy: tuple[float, float], experts: int) -> dict[str, float]:
    metrics = {
        "train/images_per_second": 500.0,
        "seconds": 15.0,
        "peak_memory_bytes": 512 * 2.0**20,
        "test/single_ece": 0.10,
        "test/ensemble_ece": 0.05,
        "test/kl_copies": 0.3,
    }
    if experts > 1:
        metrics["test/kl_experts"] = 0.2
    for setting, top1 in zip(("single", "ensemble"), accuracy, strict=True):
        metrics |= {f"test/{setting}_{end}": top1 for end in ("top1", "class_mean")}
        metrics |= {f"test/{setting}_many": top1 + 0.1, f"test/{setting}_few": top1 - 0.2}
    return metrics


@dataclass(frozen=True)
class Store:
    """A filled store and the runs in it by cell: those that a report should show."""

    uri: str
    runs: dict[str, str]
    other_experiment: Sequence[str]


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The study, in MLflow."""
    filler = Filler(tmp_path_factory.mktemp("mlflow"))
    own, other = filler.experiment("study"), filler.experiment("earlier")
    earlier = filler.sweep(other, "earlier", PlanRecord(sweep="earlier", name="earlier", profile=None, question=""))
    parent = filler.sweep(
        own, SWEEP, PlanRecord(sweep=SWEEP, name="study", profile="small", question="of an older run")
    )
    runs: dict[str, str] = {}
    method = {"CE": "ce", "BIL": "bsce"}
    for row, values in ACCURACY.items():
        for seed, accuracy in enumerate(values):
            cell = cell_of(row, seed)
            trial: dict[str, Any] = {"method": method.get(row, "ncl_pp"), "accuracy": accuracy}
            if cell == "bil+intercl-2":  # has not run
                continue
            if cell == "ce-0":  # ran three times: an old result, the right one, and a crash
                filler.trial(own, parent, cell, seed, **{**trial, "accuracy": (0.1, 0.1)})
                runs[cell] = filler.trial(own, parent, cell, seed, **trial)
                filler.trial(own, parent, cell, seed, method="ce", status=Status.FAILED, error="killed")
                continue
            if cell == "bil+intracl-1":
                trial |= {"accuracy": None, "status": Status.DIVERGED, "error": "the loss is\nnot | finite"}
            if cell == "random-0":
                trial |= {"fingerprint": "0123456789abcdef" * 4}
            if row == "BIL":
                runs[cell] = filler.trial(other, earlier, cell, seed, sweep="earlier", **trial)
            else:
                runs[cell] = filler.trial(own, parent, cell, seed, **trial)
    for number, accuracy in ((4, (0.50, 0.51)), (2, (0.48, 0.50))):
        for seed in (0, 1):
            cell = f"confirm-{number}-{seed}"
            shifted = (accuracy[0] + 0.02 * seed, accuracy[1] + 0.02 * seed)
            runs[cell] = filler.trial(own, parent, cell, seed, accuracy=shifted, epochs=20 * number)
    runs["search-0"] = filler.trial(own, parent, "search-0", 1000, accuracy=(0.3, 0.3), epochs=20)
    filler.sweep(own, SWEEP, plan(), runs=json.dumps(runs), search=search().model_dump_json())
    failed = filler.sweep(own, "failed", plan().model_copy(update={"sweep": "failed"}))
    filler.trial(own, failed, "ce-1", 1, sweep="failed", status=Status.FAILED, error="broken", record=False)
    return Store(filler.uri, runs, [runs[cell_of("BIL", seed)] for seed in SEEDS])
