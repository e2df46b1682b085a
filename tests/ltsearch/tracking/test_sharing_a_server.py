"""MLflow on a real SQLite store: sweeps that tell one server of the same cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job, Outcome
from ltsearch.store.cells import CellStore
from ltsearch.store.records import (
    TAG_CELL,
    TAG_PARENT,
    TAG_ROLE,
    TAG_STATUS,
    CellRecord,
    Epoch,
    Status,
)
from ltsearch.tracking import writer
from ltsearch.tracking.server import connect
from ltsearch.tracking.writer import Tracker
from tests.ltsearch.helpers import study
from tests.ltsearch.tracking.helpers import PLAN, described, new_runs, train, trial_runs


def test_a_cell_that_another_sweep_has_begun_stays_one_run(uri: str, tmp_path: Path) -> None:
    """Its driver is killed in the third epoch, when ours has long looked for runs; the checkpoint is of the second."""
    store, cell, before = (
        CellStore(tmp_path),
        make_cell(study()["base"], 3, "test"),
        {r.info.run_id for r in trial_runs(uri)},
    )
    ours = Tracker(uri, "experiment", "s", store, warn=print)
    ours.open(PLAN)
    other = Tracker(uri, "experiment", "another sweep", store, warn=print)
    other.open(PLAN)
    history = [Epoch(epoch=e, metrics={"train/top1": e / 100, "seconds": 1.0}) for e in (1, 2, 3, 4)]
    job = Job(cell, "ablation", "theirs · seed 3", started=1200.0)
    other.started(job)
    for epoch in history[:3]:
        other.epoch(job, epoch, {})
    other.close(Status.INTERRUPTED, [], PLAN, None)
    (theirs,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    record = CellRecord(
        cell=cell.id, config=cell.config.model_dump(mode="json"), recipes={}, status="running", started=1200.0
    )
    store.write(record.model_copy(update={"history": history[:2]}))
    goes_on = Job(cell, "ablation", "ours · seed 3", started=1200.0, goes_on=True)
    ours.started(goes_on)
    for epoch in history[2:]:
        ours.epoch(goes_on, epoch, {})
    store.settle(record.model_copy(update={"history": history}), Status.FINISHED)
    ours.ended(goes_on, Outcome(Status.FINISHED))
    ours.close(Status.FINISHED, [cell.id], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert run.info.run_id == theirs.info.run_id and run.info.status == "FINISHED"
    assert run.data.tags[TAG_PARENT] == ours.parent != theirs.data.tags[TAG_PARENT]
    assert [m.step for m in connect(uri).get_metric_history(run.info.run_id, "train/top1")] == [1, 2, 3, 4]


def test_a_cell_whose_other_sweep_has_not_told_of_its_end_yet_stays_one_run(uri: str, tmp_path: Path) -> None:
    """It is over by its record, while its run is RUNNING: the other driver writes still, or was killed a moment ago."""
    store, cell = CellStore(tmp_path), make_cell(study()["base"], 4, "test")
    before = {r.info.run_id for r in trial_runs(uri)}
    other = Tracker(uri, "experiment", "another sweep", store, warn=print)
    other.open(PLAN)
    job = Job(cell, "ablation", "theirs · seed 4", started=1300.0)
    other.started(job)
    described(other, job)
    last = cell.config.training.epochs
    record = CellRecord(
        cell=cell.id,
        config=cell.config.model_dump(mode="json"),
        recipes={},
        status="running",
        started=1300.0,
        history=[Epoch(epoch=e, metrics={"train/top1": e / 1000, "seconds": 1.0}) for e in range(1, last + 1)],
    )
    store.settle(record, Status.FINISHED)
    ours = Tracker(uri, "experiment", "s", store, warn=print)
    ours.open(PLAN)
    ours.rebuild([(cell.id, "ablation", "ours · seed 4")])
    ours.close(Status.FINISHED, [cell.id], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert run.info.status == "RUNNING" and run.info.run_id == ours.runs[cell.id]
    other.ended(job, Outcome(Status.FINISHED))
    other.close(Status.FINISHED, [cell.id], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert run.info.status == "FINISHED" and run.data.tags[TAG_PARENT] == other.parent
    assert [m.step for m in connect(uri).get_metric_history(run.info.run_id, "train/top1")] == list(range(1, last + 1))


def test_a_driver_that_slept_leaves_the_run_that_another_sweep_has_taken(uri: str, tmp_path: Path) -> None:
    store, cell = CellStore(tmp_path), make_cell(study()["base"], 5, "test")
    before = {r.info.run_id for r in trial_runs(uri)}
    asleep, awake = (Tracker(uri, "experiment", name, store, warn=print) for name in ("another sweep", "s"))
    job = Job(cell, "ablation", "theirs · seed 5", started=1400.0)
    asleep.open(PLAN)
    asleep.started(job)
    described(asleep, job)
    awake.open(PLAN)
    taken = Job(cell, "ablation", "ours · seed 5", started=1400.0, goes_on=True)
    awake.started(taken)
    described(awake, taken)
    asleep.interrupt([job])
    asleep.close(Status.INTERRUPTED, [], PLAN, None)
    (run,) = [r for r in trial_runs(uri) if r.info.run_id not in before]
    assert run.info.status == "RUNNING" and run.info.run_name == "ours · seed 5"
    assert run.data.tags[TAG_PARENT] == awake.parent and run.data.tags[TAG_STATUS] == "running"
    awake.close(Status.INTERRUPTED, [], PLAN, None)


def test_two_sweeps_that_make_their_experiment_at_once(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, looks = writer.find_experiment, []
    first, second = (Tracker(uri, "made twice", name, CellStore(tmp_path), warn=print) for name in ("s", "t"))
    first.open(PLAN)
    monkeypatch.setattr(
        writer, "find_experiment", lambda *words: looks.append(1) or (found(*words) if len(looks) > 1 else None)
    )
    second.open(PLAN)
    assert second.experiment == first.experiment and len(looks) == 2
    for tracker in (first, second):
        tracker.close(Status.FINISHED, [], PLAN, None)


def test_a_cell_that_another_sweep_is_training_keeps_its_run(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = make_cell(study()["base"], 0, "test")
    other = Tracker(uri, "experiment", "another sweep", CellStore(tmp_path / "other"), warn=print)
    other.open(PLAN)
    other.started(job := Job(cell, "ablation", "theirs", started=800.0))
    described(other, job)
    theirs = other.runs[cell.id]
    before = {r.info.run_id for r in new_runs(uri, set())}
    for started in (800.0, 900.0):  # the store of cells is shared, or it is not
        train(uri, CellStore(tmp_path / str(started)), started, 0.7, (1,))
        run = connect(uri).get_run(theirs)
        assert (run.info.status, run.data.tags[TAG_ROLE], run.data.tags[TAG_STATUS]) == ("RUNNING", "trial", "running")
        new = [r for r in new_runs(uri, before) if r.data.tags[TAG_ROLE] == "trial"]
        assert len(new) == 1 and new[0].info.status == "FINISHED"
        assert new[0].data.tags[TAG_CELL] == cell.id and new[0].data.tags[TAG_PARENT] != other.parent
    monkeypatch.setattr(writer, "DEAD_AFTER_SECONDS", -1.0)  # no sign of life any more
    Tracker(uri, "experiment", "s", CellStore(tmp_path / "s"), warn=print).open(PLAN)
    run = connect(uri).get_run(theirs)
    assert (run.info.status, run.data.tags[TAG_STATUS]) == ("KILLED", "interrupted")
    other.close(Status.INTERRUPTED, [], PLAN, None)
