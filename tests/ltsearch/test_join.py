"""``ltsearch join``: a second machine trains cells of a sweep, through nothing but the storage."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.run import joining
from ltsearch.run.jobs import Job, Outcome, bare_record
from ltsearch.run.queue import Queue
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import sweep_lock
from ltsearch.store.records import TAG_CELL, TAG_ROLE, Status
from ltsearch.study.options import Choice
from tests.ltsearch.helpers import study, write
from tests.ltsearch.test_sweep import records, runs, start, wait_for
from trainables.config import DataConfig
from trainables.data import read_source, source_key
from trainables.errors import UserError


def ablation(**over: Any) -> dict[str, Any]:
    """Six cells of a second or two, unless told otherwise."""
    tree = study(**over)
    del tree["search"]
    return tree


def joined(folder: Path, *words: str) -> subprocess.Popen[str]:
    return start(folder, "join", *words, module="ltsearch")


def test_a_helper_is_done_when_others_have_what_is_left(tmp_path: Path) -> None:
    plan = make_plan(Choice(write(tmp_path, ablation(seeds=1))).load())
    store = CellStore(tmp_path / "store")
    with sweep_lock(store.sweep_folder("synthetic")) as main, sweep_lock(store.sweep_folder("synthetic+a-1")) as other:
        has, helps = Claims(store, main), Claims(store, other)
        first, second, third = plan.cells
        assert has.take(first.id) is None
        queue = Queue(plan, store, None, [], lambda _: False, helps, helps=True)
        queue.say = lambda _: None
        jobs = [queue.next(), queue.next(), queue.next()]
        assert [job.cell.id for job in jobs if job is not None] == [second.id, third.id] and not queue.exhausted
        for job in jobs[:2]:
            assert job is not None
            store.settle(bare_record(job), Status.FINISHED)
            queue.running.pop(job.cell.id)
        assert queue.exhausted  # the first is left to who trains it
        has.release(first.id)
        queue.others._looked = -1e9
        again = queue.next()
        assert again is not None and again.cell.id == first.id  # but taken if it is let go


def test_what_has_failed_or_is_stale_is_left_to_the_sweep(tmp_path: Path) -> None:
    """A helper trains neither anew, and clears nothing; it is done when nothing else is left."""
    plan = make_plan(Choice(write(tmp_path, ablation(seeds=1))).load())
    store = CellStore(tmp_path / "store")
    failed, stale, third = plan.cells
    for cell, status in ((failed, Status.FAILED), (stale, Status.FINISHED)):
        store.settle(bare_record(Job(cell, "ablation", cell.id)), status, "why")
    with sweep_lock(store.sweep_folder("synthetic")) as main, sweep_lock(store.sweep_folder("synthetic+a-1")) as other:
        judge = lambda record: record.cell == stale.id  # noqa: E731
        helper = Queue(plan, store, None, [], judge, Claims(store, other), helps=True)
        job = helper.next()
        assert job is not None and job.cell.id == third.id and helper.next() is None
        store.settle(bare_record(job), Status.FINISHED)
        helper.end(job, Outcome(Status.FINISHED))
        assert helper.exhausted
        assert {str(store.read(cell.id).status) for cell in (failed, stale)} == {"failed", "finished"}  # type: ignore[union-attr]
        # The sweep itself trains both, and has no cell at hand for later while others pull.
        sweep = Queue(plan, store, None, [], judge, Claims(store, main))
        assert {job.cell.id for job in (sweep.next(), sweep.next()) if job is not None} == {failed.id, stale.id}
        assert helper.others.pull and sweep.others.pull
    (store.sweep_folder("synthetic+a-1") / "lock").unlink()
    store.sweep_folder("synthetic+a-1").rmdir()
    sweep.others._looked_for_helpers = -1e9
    assert not sweep.others.pull


def test_a_machine_that_differs_does_not_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(name="digits")
    source = read_source(config, tmp_path)
    folder, data = tmp_path / "sweep", {source_key(config): source}
    with sweep_lock(folder) as lock:
        joining.Terms(folder, data, tmp_path).look()  # no terms
        late = joining.Terms(folder, data, tmp_path)
        late.look()
        assert not late.met
        joining.write(folder, lock.mark, data)
        late._looked = -1e9
        late.look()
        assert late.met
        other = {source_key(config): replace(source, fingerprint="other")}
        with pytest.raises(
            UserError, match=r"digits below .* has other images than the sweep trains on .fingerprint other, there"
        ):
            joining.Terms(folder, other, tmp_path).look()
        monkeypatch.setattr(joining, "versions", lambda: {"code": "abc", "torch": "1"})
        with pytest.raises(
            UserError, match=r"the sweep runs with other versions than this machine has: code abc \(there \w+\)"
        ):
            joining.Terms(folder, data, tmp_path).look()
    joining.Terms(folder, other, tmp_path).look()  # nobody runs it now


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_machines_share_a_sweep_and_one_may_be_lost(tmp_path: Path) -> None:
    """Each cell is trained once, MLflow has all of them, and what a killed helper had is trained by the sweep."""
    path = str(write(tmp_path, ablation(**{"seeds": 4, "base.synthetic.epoch_seconds": 1.0})))
    sweep = start(tmp_path, path, "--local", "--max-concurrent", "1")
    wait_for(sweep, "start  ")
    helper, lost = joined(tmp_path, path, "--max-concurrent", "1"), joined(tmp_path, path, "--max-concurrent", "1")
    said = "".join(wait_for(lost, "start  "))
    assert "synthetic: joined; " in said
    os.killpg(lost.pid, signal.SIGKILL)
    lost.wait()
    assert sweep.stdout is not None and helper.stdout is not None
    output, helped = sweep.stdout.read(), helper.stdout.read()
    assert sweep.wait(300) == 0, output
    assert helper.wait(300) == 0, helped
    here = re.search(r"(\d+) cells trained here", helped)
    assert here is not None and 1 <= int(here[1]) < 12, helped
    found = records(tmp_path)
    assert len(found) == 12 and {str(one.status) for one in found.values()} == {"finished"}
    assert all(len(one.history) == 9 for one in found.values())
    told = [run for run in runs(tmp_path) if run.data.tags.get(TAG_ROLE) == "trial"]
    assert sorted(run.data.tags[TAG_CELL] for run in told) == sorted(found)
    assert all(run.info.status == "FINISHED" and run.data.metrics["train/top1"] > 0 for run in told)
    assert [place.name for place in (tmp_path / "store" / "sweeps").iterdir() if "+" not in place.name] == ["synthetic"]
    assert (
        len(list((tmp_path / "store" / "sweeps").iterdir())) <= 2
    )  # the killed helper's lock, which counts for nothing
