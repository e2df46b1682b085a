"""Sweeps without training, as MLflow is told of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job, Outcome
from ltsearch.store.cells import CellStore
from ltsearch.store.records import (
    TAG_ROLE,
    CellRecord,
    Epoch,
    PlanRecord,
    Status,
)
from ltsearch.tracking.server import connect
from ltsearch.tracking.writer import Tracker
from tests.ltsearch.helpers import study

PLAN = PlanRecord(sweep="s", name="s", profile=None, question="")


def train(
    uri: str,
    store: CellStore,
    started: float,
    accuracy: float,
    epochs: tuple[int, ...],
    *,
    end: bool = True,
    warn: Callable[[str], None] = print,
) -> Job:
    """One sweep that trains one cell for these epochs."""
    cell = make_cell(study()["base"], 0, "test")
    job = Job(cell, "ablation", "row", started=started)
    tracker = Tracker(uri, "experiment", "s", store, warn=warn)
    tracker.open(PLAN)
    tracker.started(job)
    history = [
        Epoch(epoch=e, metrics={"train/top1": accuracy + e / 100, "seconds": 1.0}) for e in range(1, max(epochs) + 1)
    ]
    record = CellRecord(
        cell=cell.id,
        config=cell.config.model_dump(mode="json"),
        recipes={},
        status="running",
        started=started,
        history=history,
    )
    store.write(record)
    for e in epochs:
        tracker.epoch(job, history[e - 1], {})
    if end:
        store.settle(record, Status.FINISHED)
        tracker.ended(job, Outcome(Status.FINISHED))
    else:
        tracker.interrupt([job])
    tracker.close(Status.FINISHED if end else Status.INTERRUPTED, [cell.id], PLAN, None)
    return job


def trial_runs(uri: str, role: str = "trial") -> list:
    client = connect(uri)
    return list(
        client.search_runs([e.experiment_id for e in client.search_experiments()], f"tags.`{TAG_ROLE}` = '{role}'")
    )


def new_runs(uri: str, before: set[str]) -> list[Any]:
    """Runs of trials, set aside or not, that were not there."""
    return [r for role in ("trial", "superseded") for r in trial_runs(uri, role) if r.info.run_id not in before]


def described(tracker: Tracker, job: Job) -> None:
    """Wait until MLflow has a run of this trial, with all that is told at its start."""
    deadline = time.monotonic() + 30
    while tracker.begun.get(job.cell.id) != f"{job.started:.3f}" or job.cell.id not in tracker._described:
        assert time.monotonic() < deadline
        time.sleep(0.01)
