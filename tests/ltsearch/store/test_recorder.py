"""What a record adds to the trainer's reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.cells import make_cell
from ltsearch.run.trial import out_of_memory
from ltsearch.run.worker_group import Mailbox, reason
from ltsearch.store.cells import CellStore
from ltsearch.store.recorder import Recorder, best_epoch_on_test
from ltsearch.store.records import Epoch, Status
from tests.ltsearch.helpers import study
from trainables.data.longtail import split
from trainables.reports import Report


def test_the_best_epoch_is_told_where_several_were_evaluated() -> None:
    history = [
        Epoch(epoch=1, metrics={"test/single_top1": 0.3, "test/ensemble_top1": 0.4}),
        Epoch(epoch=2, metrics={"train/loss": 1.0}),
        Epoch(epoch=3, metrics={"test/single_top1": 0.5, "test/ensemble_top1": 0.6}),
    ]
    last = {"test/single_top1": 0.45, "test/ensemble_top1": 0.61}
    best = best_epoch_on_test(history, last)
    assert best == {"best_epoch_on_test/single_top1": 0.5, "best_epoch_on_test/ensemble_top1": 0.61}
    assert best_epoch_on_test(history[1:2], last) == {}
    assert best_epoch_on_test([Epoch(epoch=1, metrics={"val/single_top1": 0.5})], {"val/single_top1": 0.4}) == {}


@pytest.mark.parametrize("status", [Status.FINISHED, Status.DIVERGED, Status.OUT_OF_MEMORY])
def test_what_another_sweep_has_settled_is_not_taken_back(digits: Any, tmp_path: Path, status: Status) -> None:
    cell = make_cell(study()["base"], 0, "test")
    data, store = split(cell.config.data, digits), CellStore(tmp_path)
    ours, theirs = (Recorder(store, cell.id, cell.config, data, 1.0, {"host": host}) for host in ("ours", "theirs"))
    ours.add(Report(1, {"train/loss": 1.0}, {}))
    ours.write()
    assert store.read(cell.id) == ours.record
    theirs.settle(status, "theirs")
    settled = store.read(cell.id)
    ours.add(Report(2, {"train/loss": 0.5}, {}))
    ours.write()
    assert store.read(cell.id) == settled and settled.status is status
    # What was settled on another content of the data set does not count.
    store.write(settled.model_copy(update={"fingerprint": "other"}))
    ours.write()
    assert store.read(cell.id) == ours.record and len(ours.record.history) == 2


# -- the mailbox between a trial and its workers ---------------------------------------------------------------------------


def test_workers_wait_until_the_trial_wants_more() -> None:
    box = Mailbox()
    assert box.take(0) is None and box.begun()
    first = box.put({"cell": "a"})
    assert box.take(0) == (first, {"cell": "a"})
    box.ask(first)
    box.report(first, "epoch 1")
    assert box.go_on(first) is None  # the search may be about to stop it
    assert box.pop() == "epoch 1" and box.pop() is None
    box.ask(first)
    assert box.go_on(first) is True
    second = box.put({"cell": "b"})  # stopped, and another one
    assert box.go_on(first) is False
    box.report(first, "late")
    assert box.pop() is None  # what a stopped trial still says is not taken for the next one's
    box.stop()
    assert box.take(second) is None and box.go_on(second) is False
    box.close()
    assert box.take(second) == (-1, None)


def test_the_worker_that_ran_out_of_memory_is_the_one_to_tell_of() -> None:
    class GroupError(Exception):
        worker_failures = {
            0: RuntimeError("gloo: Connection closed by peer"),
            1: RuntimeError(
                "Traceback\n  File x\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nnote"
            ),
        }

    assert out_of_memory(RuntimeError(reason(GroupError())))
    assert reason(RuntimeError("a\nb\n")) == "b"
