"""MLflow on a real SQLite store: what a run shows when its cell is trained again."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltsearch.jobs import Job, Outcome
from ltsearch.plan import make_cell
from ltsearch.records import TAG_ROLE, TAG_STATUS, CellRecord, Epoch, PlanRecord, Status
from ltsearch.store import CellStore
from ltsearch.tracking import Tracker
from ltsearch.tracking_store import connect
from tests.ltsearch.helpers import study

PLAN = PlanRecord(sweep="s", name="s", profile=None, question="")


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def train(
    uri: str, store: CellStore, started: float, accuracy: float, epochs: tuple[int, ...], *, end: bool = True
) -> Job:
    """One sweep that trains one cell for these epochs."""
    cell = make_cell(study()["base"], 0, "test")
    job = Job(cell, "ablation", "row", started=started)
    tracker = Tracker(uri, "experiment", "s", store, warn=print)
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


def test_an_interrupted_run_goes_on_and_a_new_training_is_a_new_run(uri: str, tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    job = train(uri, store, 100.0, 0.1, (1, 2), end=False)
    (run,) = trial_runs(uri)
    assert (run.info.status, run.data.tags[TAG_STATUS]) == ("KILLED", "interrupted")
    train(uri, store, 100.0, 0.1, (2, 3))  # from the checkpoint of epoch 1
    (run,) = trial_runs(uri)
    steps = [m.step for m in connect(uri).get_metric_history(run.info.run_id, "train/top1")]
    assert steps == [1, 2, 3] and run.info.status == "FINISHED"

    store.clear(job.cell.id)
    train(uri, store, 200.0, 0.5, (1, 2, 3))
    (new,) = trial_runs(uri)
    assert new.info.run_id != run.info.run_id and new.data.metrics["train/top1"] == pytest.approx(0.53)
    (old,) = trial_runs(uri, "superseded")
    assert old.info.run_id == run.info.run_id


def test_writes_that_fail_are_made_again_in_order_and_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    real, failures = MlflowClient.log_batch, iter([True, True, False, True, False, False, False, False])

    def shaky(self: MlflowClient, *args: object, **kwargs: object) -> object:
        if next(failures, False):
            raise ConnectionError("server is down")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", shaky)
    before = {r.info.run_id for r in trial_runs(uri)}
    store = CellStore(tmp_path)
    train(uri, store, 300.0, 0.7, (1, 2, 3))
    new = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert len(new) == 1 and new[0].data.params["model.experts"] == "1"
    steps = [m.step for m in connect(uri).get_metric_history(new[0].info.run_id, "train/top1")]
    assert steps == [1, 2, 3]
