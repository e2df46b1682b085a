"""What MLflow shows beside plan and metrics (a trial's data, a sweep's source, report and headline), and metrics in batches."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from ltsearch.store import records as r
from ltsearch.store.records import CellRecord, Epoch, PlanRecord, SearchRecord, Status, headline
from ltsearch.tracking.server import connect, shown
from trainables.errors import UserError

REPORT_ARTIFACTS = "report"  # folder of the report on the sweep's run
# Of its two views MLflow opens that of training for this kind. 3.17 does not look at it (seen in a browser): there “Model
# training” at the top left does, or `?workflowType=machine_learning` behind the address.
EXPERIMENT_KIND = {"mlflow.experimentKind": "custom_model_development"}
MOST_METRICS = 1000  # of one call
Heard = tuple[Epoch, int]  # with the time at which it was heard, in ms since 1970


def source(plan: PlanRecord) -> dict[str, str]:
    """Tags of the sweep's run: MLflow shows command and commit."""
    commit = plan.provenance.get("commit", "")
    tags = {"mlflow.source.name": plan.command, "mlflow.source.type": "LOCAL"}
    return {**tags, **({"mlflow.source.git.commit": commit} if commit else {})}


def end_of(record: CellRecord) -> dict[str, str]:
    """Tags of the run of a trial that is over."""
    return {
        r.TAG_FINGERPRINT: record.fingerprint,
        r.TAG_RECIPES: json.dumps(record.recipes, sort_keys=True),
        r.TAG_TIMED: record.timed,
        r.TAG_STATUS: str(record.status),
        **({r.TAG_ERROR: record.error[:5000]} if record.error else {}),
    }


def data_set(record: CellRecord) -> Any:
    """What a trial was trained on, as MLflow's pages list it: name, fingerprint, settings, images by class."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = record.config.get("data", {})
    name = Path(data["path"]).name if data.get("path") else str(data.get("name", "data"))
    profile = {"training_images": sum(record.class_counts), "classes": len(record.class_counts)}
    whole = Dataset(
        name=name,
        digest=record.fingerprint[:36] or "unknown",
        source_type="ltsearch",
        source=json.dumps(data, sort_keys=True),
        profile=json.dumps(profile),
    )
    return DatasetInput(whole, [InputTag("mlflow.data.context", "training")])


def data_sets(plan: PlanRecord, search: SearchRecord | None, read: Callable[[str], CellRecord | None]) -> list[Any]:
    """What a sweep was trained on, each once: by the first trial of every row, and of the search."""
    cells = [row.cells[0].cell for row in plan.rows if row.cells]
    cells += [trial.cell for trial in search.trials[:1] if trial.cell] if search is not None else []
    found: dict[tuple[str, str, int], Any] = {}
    for record in map(read, dict.fromkeys(cells)):
        if record is not None and record.fingerprint:
            made = data_set(record)
            found.setdefault((made.dataset.name, made.dataset.digest, sum(record.class_counts)), made)
    return list(found.values())


def headlines(plan: PlanRecord, read: Callable[[str], CellRecord | None]) -> dict[str, float]:
    """Mean accuracy of every row over its finished seeds, as a fraction, by a name that MLflow takes."""
    found: dict[str, float] = {}
    for row in plan.rows:
        records = [record for cell in row.cells if (record := read(cell.cell)) is not None]
        metric = headline(row.predict)
        values = [r.final[metric] for r in records if r.status is Status.FINISHED and metric in r.final]
        if values:
            found["headline/" + re.sub(r"[^\w\-. /]", "_", row.label)[:200]] = fmean(values)
    return found


def attach(
    uri: str, run_id: str, report: Path, metrics: Mapping[str, float], warn: Callable[[str], None] = print
) -> None:
    """Put the report and the headline on the sweep's run; a server that refuses them loses nothing but the copy."""
    try:
        client = connect(uri)
        client.log_artifacts(run_id, str(report), REPORT_ARTIFACTS)
        from mlflow.entities import Metric

        stamp = int(time.time() * 1000)
        client.log_batch(run_id, metrics=[Metric(name, value, stamp, 0) for name, value in metrics.items()])
    except UserError as error:
        warn(f"the report is not on its page: {error}")
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's
        said = shown(str(error).splitlines()[0][:200]) if str(error) else type(error).__name__
        warn(f"the report is not on its page of MLflow at {shown(uri)} ({said}); it is in {report}")


def batches(epochs: Iterable[Heard]) -> Iterator[list[Heard]]:
    """Epochs with no more metrics than MLflow takes at once."""
    batch: list[Heard] = []
    metrics = 0
    for heard in epochs:
        metrics += len(heard[0].metrics) + 1
        if batch and metrics > MOST_METRICS:
            yield batch
            batch, metrics = [], len(heard[0].metrics) + 1
        batch.append(heard)
    if batch:
        yield batch
