"""Runs with known arrays in a real store of cells and a real MLflow store, for the tests of figures and of what is read.

Legend: ``K`` experts, ``N`` test images, ``C`` classes, ``D`` features. All metrics are those of the logits that are kept.
"""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric
from numpy.typing import NDArray

from analysis.read.mlflow_store import TrackingStore
from analysis.read.selection import by_cell
from analysis.tables import ablation
from analysis.tables.context import Context
from ltsearch.store import records
from ltsearch.store.cells import CellStore
from ltsearch.store.ids import cell_id
from ltsearch.store.records import CellRecord, Epoch, PlannedCell, PlannedRow, PlanRecord, Status
from tests.ltsearch.helpers import empty_mlflow
from trainables.config import TrialConfig
from trainables.files import write_text

Arrays = dict[str, NDArray[Any]]
SWEEP = "figures"
D = 8


@dataclass(frozen=True)
class Row:
    """A row of the study to fill in. ``keep``: what its ``final.npz`` has of the logits; None: there is no such file."""

    name: str
    experts: int = 1
    strength: float = 2.0
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "bsce"})
    keep: str | None = "logits"
    runs: bool = True
    same_as: str | None = None  # the cells of that row, under another name
    weights: tuple[float, float] | None = None  # λ1, λ2 in the first epoch
    drift: float = 0.0  # of λ1 up, of λ2 down, an epoch
    shifted: bool = True  # whether a class keeps images under shifted test distributions
    virtual: tuple[float, ...] | None = None  # virtual examples a class, many to few
    counts: Sequence[int] | None = None  # of the classes, where others than the study's


@dataclass(frozen=True)
class Study:
    """What was written: arrays and records by (setting, row, seed), and the context on top."""

    context: Context
    finals: dict[tuple[str, str, int], Arrays]
    records: dict[tuple[str, str, int], CellRecord]


def fill(
    folder: Path,
    rows: Sequence[Row],
    counts: Sequence[int],
    *,
    names: Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    per_class: int = 6,
    epochs: int = 4,
    **asked: Any,
) -> Study:
    """Write a study's runs and open it as a report does.

    ``settings``: keys of ``data`` by setting. ``asked``: what the plan wants of the report, as fields of ``PlanRecord``.
    """
    (folder / "mlflow.db").write_bytes(empty_mlflow())
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.create_experiment("study", artifact_location=(folder / "artifacts").as_uri())
    cell_store = CellStore(folder / "store")
    planned, finals, kept = [], {}, {}
    for setting, data in (settings or {"": {}}).items():
        for row in rows:
            number = [other.name for other in rows].index(row.same_as or row.name)
            config: dict[str, Any] = {
                "data": {
                    "name": "cifar10",
                    "imbalance": {"profile": "exponential", "factor": 100.0},
                    "data_ratio": 1.0,
                    **copy.deepcopy(dict(data)),
                },
                "augmentation": {"policy": "sim"},
                "model": {"backbone": "resnet8", "experts": row.experts},
                "method": dict(row.method),
                "training": {"epochs": epochs},
            }
            # What was "trained" is a plain configuration, other ones for other rows: a row's may be what no trial could have.
            trained = {**config, "method": {"name": "bsce"}, "training": {"epochs": epochs, "batch_size": 64 + number}}
            configs = {seed: TrialConfig.model_validate({**trained, "seed": seed}) for seed in seeds}
            cells = {seed: cell_id(whole) for seed, whole in configs.items()}
            planned.append(
                PlannedRow(
                    name=row.name,
                    predict="ensemble" if "(ensemble)" in row.name else "single",
                    changes={},
                    cells=[PlannedCell(cell=cell, seed=seed) for seed, cell in cells.items()],
                    config=config,
                    setting=setting,
                )
            )
            if not row.runs or row.same_as:
                continue
            for seed, cell in cells.items():
                told = f"{setting}/{row.name}/{seed}"
                arrays = final(row, row.counts or counts, per_class, seed=zlib.crc32(told.encode()))
                whole = configs[seed].model_dump(mode="json")
                record = _record(row, cell, arrays, names, epochs, whole, jitter=(zlib.crc32(told.encode()) % 7) / 100)
                kept_arrays = _kept(arrays, row.keep)
                cell_store.write(record)
                if kept_arrays is not None:
                    np.savez_compressed(folder / "store" / "cells" / cell / records.FINAL_ARTIFACT, **kept_arrays)
                _log(client, experiment, seed, record, kept_arrays, folder)
                finals[setting, row.name, seed], kept[setting, row.name, seed] = arrays, record
    plan = PlanRecord(
        sweep=SWEEP, name=SWEEP, profile=None, question="?", rows=planned, reference=rows[0].name, **asked
    )
    tags = {records.TAG_ROLE: "sweep", records.TAG_SWEEP: SWEEP}
    parent = client.create_run(experiment, tags=tags)
    client.log_text(parent.info.run_id, plan.model_dump_json(), records.PLAN_ARTIFACT)
    write_text(cell_store.sweep_folder(SWEEP) / records.PLAN_ARTIFACT, plan.model_dump_json())
    store = TrackingStore(f"sqlite:///{folder / 'mlflow.db'}")
    sweep = store.sweep(SWEEP)
    return Study(Context(sweep.plan, ablation.build(sweep.plan, by_cell(sweep.frame)), store), finals, kept)


def final(row: Row, counts: Sequence[int], per_class: int, seed: int) -> Arrays:
    """What a run keeps: logits that know the label, the better the larger its class."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(counts)
    classes = len(sizes)
    labels = np.tile(np.arange(classes), per_class)
    strength = row.strength * (0.5 + 0.5 * sizes / sizes.max())
    logits = rng.normal(size=(row.experts, len(labels), classes)) * 1.2
    logits[:, np.arange(len(labels)), labels] += strength[labels]
    centres = np.random.default_rng(0).normal(size=(classes, D)) * row.strength
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(2000, len(labels))).astype(int))
    arrays: Arrays = {
        "labels": labels.astype(np.int32),
        "class_counts": sizes,
        "feature_index": chosen,
        "features": (centres[labels[chosen]] + rng.normal(size=(row.experts, len(chosen), D))).astype(np.float16),
        "kl_copies": rng.uniform(0.1, 0.2, classes) * 3 / row.strength + 0.3 / np.sqrt(sizes),
        "logits": logits.astype(np.float16),
    }
    for predict, shown in (("single", logits), ("ensemble", logits.mean(0, keepdims=True))):
        base = (shown.argmax(-1) == labels).mean()
        arrays[f"shifted_{predict}"] = base + np.linspace(0.1, -0.1, 11) * np.array([[1.0], [0.5]])
        if not row.shifted:
            arrays[f"shifted_{predict}"][:] = np.nan
    if row.experts > 1:
        arrays["kl_experts"] = rng.uniform(0.2, 0.4, classes) * 3 / row.strength + 0.5 / np.sqrt(sizes)
    return arrays


def _kept(arrays: Arrays, keep: str | None) -> Arrays | None:
    if keep is None:
        return None
    kept = dict(arrays)
    if keep == "top5":
        logits = kept.pop("logits")
        kept["top5_classes"] = np.argsort(-logits, axis=-1)[..., :5].astype(np.int32)
        kept["top5_logits"] = np.take_along_axis(logits, kept["top5_classes"], -1)
    return kept


def _record(
    row: Row, cell: str, arrays: Arrays, names: Sequence[str], epochs: int, config: dict[str, Any], jitter: float
) -> CellRecord:
    logits, labels, sizes = arrays["logits"].astype(float), arrays["labels"], arrays["class_counts"]
    groups = {"many": sizes > 100, "medium": (sizes >= 20) & (sizes <= 100), "few": sizes < 20}
    hits = {"single": (logits.argmax(-1) == labels).mean(0), "ensemble": logits.mean(0).argmax(-1) == labels}
    metrics: dict[str, float] = {}
    per_class: dict[str, list[float | None]] = {}
    for predict, hit in hits.items():
        metrics[f"test/{predict}_top1"] = metrics[f"test/{predict}_class_mean"] = float(hit.mean())
        for group, mask in groups.items():
            if mask.any():
                metrics[f"test/{predict}_{group}"] = float(hit[mask[labels]].mean())
        per_class[f"test/{predict}"] = [float(hit[labels == c].mean()) for c in range(len(sizes))]
    history = []
    for epoch in range(1, epochs + 1):
        found = {"seconds": 1.0, "cost/step_gmacs": 1.5 * row.experts, **(metrics if epoch == epochs else {})}
        found |= {"train/loss": 2 / epoch + jitter, "train/top1": 1 - 0.8 / epoch - jitter}
        if row.weights is not None:
            moved = row.drift * (epoch - 1) * (1 + jitter)
            found |= {"train/lambda_intra": row.weights[0] + moved, "train/lambda_inter": row.weights[1] - moved}
        if row.virtual is not None:
            found |= {f"train/virtual_{g}": v + jitter for g, v in zip(groups, row.virtual, strict=True)}
        history.append(Epoch(epoch=epoch, metrics=found))
    return CellRecord(
        cell=cell,
        config=config,
        recipes={"data": 1},
        started=1_700_000_000.0,
        ended=1_700_000_060.0,
        status=Status.FINISHED,
        fingerprint="f" * 64,
        class_counts=[int(n) for n in sizes],
        class_names=list(names),
        history=history,
        per_class=per_class,
    )


def _log(
    client: MlflowClient, experiment: str, seed: int, record: CellRecord, arrays: Arrays | None, folder: Path
) -> None:
    tags = {
        records.TAG_ROLE: "trial",
        records.TAG_SWEEP: SWEEP,
        records.TAG_CELL: record.cell,
        records.TAG_SEED: str(seed),
        records.TAG_STATUS: str(record.status),
        records.TAG_EPOCHS: str(len(record.history)),
        records.TAG_FINGERPRINT: record.fingerprint,
        records.TAG_RECIPES: json.dumps(record.recipes),
    }
    run_id = client.create_run(experiment, tags=tags).info.run_id
    client.log_batch(run_id, metrics=[Metric(name, v, 1_700_000_000_000, 1) for name, v in record.final.items()])
    client.log_text(run_id, record.model_dump_json(), records.RECORD_ARTIFACT)
    if arrays is not None:
        path = folder / records.FINAL_ARTIFACT
        np.savez_compressed(path, **arrays)
        client.log_artifact(run_id, str(path))
    client.set_terminated(run_id)
