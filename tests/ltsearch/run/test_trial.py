"""The actor of a trial, without Ray: what it does with a cell that is settled, and with one that cannot begin."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.cells import Cell, make_cell
from ltsearch.run.trial import CellTrial
from ltsearch.store.cells import RECORD, CellStore
from ltsearch.store.records import CellRecord, Status
from tests.ltsearch.helpers import study
from trainables.data import source_key


def make(seed: int = 0, **over: Any) -> Cell:
    return make_cell(
        study(**{"base.synthetic.epoch_seconds": 0, "base.training.epochs": 3, **over})["base"], seed, "test"
    )


def job(cell: Cell) -> dict[str, Any]:
    """What the searcher hands to Tune."""
    return {"cell": cell.id, "trial": cell.config.model_dump_json(), "keep_final": False, "started": 5.0}


@pytest.fixture
def begin(digits: Any, tmp_path: Path) -> Any:
    def made(cell: Cell) -> CellTrial:
        trial = CellTrial.__new__(CellTrial)
        trial.setup(job(cell), {source_key(cell.config.data): digits}, str(tmp_path), provenance={"host": "here"})
        return trial

    return made


def run(trial: CellTrial) -> list[dict[str, Any]]:
    results = [trial.step()]
    while not results[-1]["done"]:
        results.append(trial.step())
    return results


def test_a_cell_that_is_settled_tells_its_end_and_stays(begin: Any, tmp_path: Path) -> None:
    """Its process died before the driver heard of the end, or another sweep has trained it meanwhile."""
    cell, store = make(), CellStore(tmp_path)
    ended = run(begin(cell))
    assert [result["epoch"] for result in ended] == [1, 2, 3]
    content = (store.folder(cell.id) / RECORD).read_bytes()
    again = begin(cell)
    assert again.step() == again.step() == ended[-1] and ended[-1]["status"] == "finished"
    assert ended[-1]["metrics"] == store.read(cell.id).history[-1].metrics and ended[-1]["per_class"]
    assert (store.folder(cell.id) / RECORD).read_bytes() == content
    assert again.reset_config(job(make(1))) is True and [r["epoch"] for r in run(again)] == [1, 2, 3]
    assert (store.folder(cell.id) / RECORD).read_bytes() == content


@pytest.mark.parametrize("status", [Status.OUT_OF_MEMORY, Status.DIVERGED])
def test_a_cell_that_gave_no_result_tells_it_again(begin: Any, tmp_path: Path, status: Status) -> None:
    cell, store = make(), CellStore(tmp_path)
    config = cell.config.model_dump(mode="json")
    store.settle(CellRecord(cell=cell.id, config=config, recipes={}, status=Status.RUNNING), status, "reason")
    before = store.read(cell.id)
    (result,) = run(begin(cell))
    assert (result["status"], result["epoch"], result["metrics"], result["per_class"]) == (str(status), 0, {}, {})
    assert store.read(cell.id) == before


def test_a_record_of_other_images_is_no_end(begin: Any, tmp_path: Path) -> None:
    cell, store = make(), CellStore(tmp_path)
    run(begin(cell))
    store.write(store.read(cell.id).model_copy(update={"fingerprint": "other"}))
    assert [result["epoch"] for result in run(begin(cell))] == [1, 2, 3]
    assert store.read(cell.id).fingerprint != "other"


def test_a_cell_that_cannot_begin_fails_in_its_first_epoch(begin: Any, tmp_path: Path) -> None:
    """There Tune tries again what fails; while an actor is given its next cell, it does not."""
    trial, unknown = begin(make()), make(**{"base.data.image_size": 4})  # a source that this actor was not given
    assert trial.step()["epoch"] == 1
    assert trial.reset_config(job(unknown)) is True
    with pytest.raises(KeyError, match="digits"):
        trial.step()
    assert CellStore(tmp_path).read(unknown.id) is None
    assert trial.reset_config(job(make(1))) is True
    assert [result["status"] for result in run(trial)] == ["running", "running", "finished"]


class Group:
    """What an actor knows of its workers."""

    def __init__(self) -> None:
        self.alive, self.closed = True, 0

    def close(self) -> None:
        self.alive, self.closed = False, self.closed + 1


def test_workers_of_an_idle_actor_go_home(begin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a trial's end soon, in mid-trial late; not while something is asked for."""
    from ltsearch.run import trial as module

    monkeypatch.setattr(module, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(module, "IDLE_IN_TRIAL_SECONDS", 60.0)
    trial = begin(make())
    trial.group = group = Group()  # type: ignore[assignment]
    assert not trial.step()["done"]
    time.sleep(0.4)
    assert group.closed == 0  # between two epochs
    run(trial)
    assert trial.reset_config(job(make(1)))  # the next trial comes in time
    time.sleep(0.4)
    assert group.closed == 0
    run(trial)
    with trial._asked:  # it is being asked for something when its time is over
        time.sleep(0.4)
    assert group.closed == 0
    trial.reset_config(job(make(1)))
    assert trial.step()["done"]  # the cell is settled by now
    deadline = time.monotonic() + 10
    while trial.group is not None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert group.closed == 1
