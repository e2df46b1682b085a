"""MLflow on a real SQLite store: what a run shows when its cell is trained again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job
from ltsearch.store.cells import CellStore
from ltsearch.store.records import (
    RECORD_ARTIFACT,
    TAG_CELL,
    TAG_ROLE,
    TAG_STATUS,
    Epoch,
    Status,
)
from ltsearch.tracking import background
from ltsearch.tracking.background import Background
from ltsearch.tracking.server import connect
from ltsearch.tracking.writer import Tracker
from tests.ltsearch.helpers import study
from tests.ltsearch.tracking.helpers import PLAN, new_runs, train, trial_runs


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


def test_epochs_that_a_dead_driver_was_not_told_of_are_not_left_out(uri: str, tmp_path: Path) -> None:
    """The checkpoint is of epoch 3, MLflow knows of epoch 1: the trial goes on with epoch 4."""
    store, before = CellStore(tmp_path), {r.info.run_id for r in trial_runs(uri)}
    job = train(uri, store, 150.0, 0.1, (1,), end=False)
    record = store.read(job.cell.id)
    assert record is not None
    history = [Epoch(epoch=e, metrics={"train/top1": e / 100}) for e in (1, 2, 3)]
    store.write(record.model_copy(update={"history": history}))
    tracker = Tracker(uri, "experiment", "s", store, warn=print)
    tracker.open(PLAN)
    tracker.started(job)
    tracker.epoch(job, Epoch(epoch=4, metrics={"train/top1": 0.04}), {})
    tracker.close(Status.FINISHED, [job.cell.id], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert [m.step for m in connect(uri).get_metric_history(run.info.run_id, "train/top1")] == [1, 2, 3, 4]


def test_what_is_told_again_while_the_server_is_slow_is_written_once(uri: str, tmp_path: Path) -> None:
    """A trial that dies in its sixth epoch and goes on from its third; interrupted, so that no record completes it."""
    before = {r.info.run_id for r in trial_runs(uri)}
    job = Job(make_cell(study()["base"], 0, "test"), "ablation", "a row · seed 0", started=500.0)
    tracker, slow = Tracker(uri, "experiment", "s", CellStore(tmp_path), warn=print), threading.Event()
    tracker.open(PLAN)
    tracker._writing.put("a slow server", slow.wait)
    tracker.started(job)
    for number in (1, 2, 3, 4, 5, 3, 4, 5, 6):
        tracker.epoch(job, Epoch(epoch=number, metrics={"train/top1": number / 100}), {})
    slow.set()
    tracker.interrupt([job])
    tracker.close(Status.INTERRUPTED, [job.cell.id], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert [m.step for m in connect(uri).get_metric_history(run.info.run_id, "train/top1")] == [1, 2, 3, 4, 5, 6]


def test_writes_that_fail_are_made_again_in_order_and_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda seconds: time.sleep(0.01))
    monkeypatch.setattr(background, "time", clock)  # stamps of two attempts differ


def points(uri: str, run: Any, name: str) -> list[tuple[int, int]]:
    """Step and time of everything that MLflow has of a metric."""
    return [(m.step, m.timestamp) for m in connect(uri).get_metric_history(run.info.run_id, name)]


def lose_answers(monkeypatch: pytest.MonkeyPatch, method: str, of: Callable[..., bool] = lambda *_, **__: True) -> list:
    """What is written arrives, and every other time the client is told that it has not."""
    real, calls = getattr(MlflowClient, method), []

    def lossy(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        result = real(self, *args, **kwargs)
        if of(*args, **kwargs):
            calls.append(method)
            if len(calls) % 2:
                raise ConnectionError("the answer was lost")
        return result

    monkeypatch.setattr(MlflowClient, method, lossy)
    return calls


def test_a_write_whose_answer_is_lost_is_there_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    calls = lose_answers(monkeypatch, "log_batch")
    before = {r.info.run_id for r in new_runs(uri, set())}
    train(uri, CellStore(tmp_path), 400.0, 0.7, (1, 2, 3))
    (run,) = new_runs(uri, before)
    # Parameters, the epochs (one by one, or together if the writer was behind), and the total with the tags: each twice.
    assert len(calls) % 2 == 0 and 3 <= len(calls) // 2 <= 5
    for name in ("train/top1", "seconds", "epoch"):
        assert [step for step, _ in points(uri, run, name)] == [1, 2, 3]
    assert len({points(uri, run, name)[1] for name in ("train/top1", "seconds", "epoch")}) == 1  # one time an epoch
    assert len(points(uri, run, "total_seconds")) == 1 and run.info.status == "FINISHED"


def test_a_run_whose_making_is_not_confirmed_is_made_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None
) -> None:
    calls = lose_answers(monkeypatch, "create_run", lambda *_, tags, **__: tags[TAG_ROLE] == "trial")
    before = {r.info.run_id for r in new_runs(uri, set())}
    train(uri, CellStore(tmp_path), 500.0, 0.7, (1, 2))
    (run,) = new_runs(uri, before)
    assert calls == ["create_run"] and run.info.status == "FINISHED"
    assert [step for step, _ in points(uri, run, "train/top1")] == [1, 2]


@pytest.mark.parametrize(("refused", "left"), [(2, [1, 3]), (3, [1, 2])])
def test_what_mlflow_refuses_is_left_out_and_the_rest_is_written(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int, left: list[int]
) -> None:
    real = MlflowClient.log_batch

    def strict(self: MlflowClient, run: str, metrics: Any = (), **kwargs: Any) -> Any:
        if any(m.step == refused and m.key != "total_seconds" for m in metrics):
            raise MlflowException("not this one", error_code=1000)  # INVALID_PARAMETER_VALUE
        return real(self, run, metrics=metrics, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", strict)
    before, said = {r.info.run_id for r in new_runs(uri, set())}, []
    train(uri, CellStore(tmp_path), 600.0 + refused, 0.7, (1, 2, 3), warn=said.append)
    (run,) = new_runs(uri, before)
    assert [step for step, _ in points(uri, run, "train/top1")] == left
    assert (run.info.status, run.data.tags[TAG_STATUS]) == ("FINISHED", "finished")
    cell = run.data.tags[TAG_CELL]
    assert said == [f"MLflow at {uri} refuses epoch {refused} of cell {cell} (not this one); it is left out"]


def test_a_part_that_mlflow_refuses_is_named_and_the_run_ends(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MlflowException("no data sets here", error_code=1000)  # INVALID_PARAMETER_VALUE

    monkeypatch.setattr(MlflowClient, "log_inputs", refuse)
    before, told = {r.info.run_id for r in new_runs(uri, set())}, []
    train(uri, CellStore(tmp_path), 700.0, 0.7, (1, 2), warn=told.append)
    (run,) = new_runs(uri, before)
    cell = run.data.tags[TAG_CELL]
    assert told == [f"MLflow at {uri} refuses the data set of cell {cell} (no data sets here); it is left out"]
    assert (run.info.status, run.data.tags[TAG_STATUS]) == ("FINISHED", "finished")
    assert RECORD_ARTIFACT in [file.path for file in connect(uri).list_artifacts(run.info.run_id)]


def test_the_end_does_not_wait_for_a_server_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "STUCK_SECONDS", 0.3)
    told: list[str] = []
    never, wrote = threading.Event(), []
    writing = Background("http://nowhere", lambda: None, told.append)
    writing.start()
    writing.put("something", lambda: wrote.append(1))
    writing.put("something that hangs", never.wait)
    writing.end()
    assert wrote == [1]
    assert told == ["MLflow at http://nowhere: gave up writing what is left; the same command completes it later"]
    never.set()


@pytest.mark.parametrize("passing", [True, False])
def test_no_password_is_told(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pause: None, passing: bool
) -> None:
    text = "no route to http://user:pw-of-mine@host/api, see http://user:pw-of-mine@host"
    error = ConnectionError(text) if passing else MlflowException(text, error_code=1000)
    failures, real = iter([error]), MlflowClient.log_batch

    def shaky(self: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        for failure in failures:
            raise failure
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "log_batch", shaky)
    said: list[str] = []
    train(uri, CellStore(tmp_path), 700.0 + passing, 0.7, (1,), warn=said.append)
    (told,) = said
    assert "no route to http://host/api, see http://host" in told and "pw-of-mine" not in told
