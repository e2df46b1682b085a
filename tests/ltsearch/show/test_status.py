"""What another shell is told of a sweep."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ltsearch import cli
from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job, Outcome
from ltsearch.show import status
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Epoch, Status
from tests.ltsearch.helpers import study, write


def job(seed: int) -> Job:
    return Job(make_cell(study()["base"], seed, "test"), "ablation", f"row · seed {seed}")


def written_within_seconds(folder: Path, what: Callable[[status.SweepStatus], bool]) -> None:
    """By the thread that writes; nobody waits for it."""
    deadline = time.monotonic() + 30.0  # on a busy machine
    while not ((found := status.read(folder)) is not None and what(found)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_sweep_from_start_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, folder = write(tmp_path, study()), CellStore(tmp_path / "store").sweep_folder("synthetic")
    words = [str(spec), "--storage", str(tmp_path / "store")]
    assert cli.main(["status", *words]) == 2
    assert "synthetic: never run on --storage" in capsys.readouterr().err

    file = status.StatusFile(folder, "synthetic", total=4, done=1)
    file.nodes([{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0}])
    first, second = job(0), job(1)
    file.started(first)
    file.started(second)
    second.retries = 1
    file.retried(second, "RuntimeError: boom")
    file.started(second)
    file.epoch(first, Epoch(epoch=3, metrics={"train/top1": 0.25, "seconds": 1.0}), {})
    written_within_seconds(folder, lambda found: any(trial.epoch == 3 for trial in found.running))
    assert cli.main(["status", *words]) == 0
    text = capsys.readouterr().out
    assert (
        f"synthetic: running (process {os.getpid()} on " in text and "1 of 4 cells done (this run: 1 retries)" in text
    )
    assert "2 nodes with 6 CPUs and 1 GPUs" in text
    assert f"row · seed 0 ({first.cell.id}): epoch 3/9  train/top1 0.25" in text and "attempt 2" in text
    file.ended(first, Outcome(Status.FINISHED))
    file.ended(second, Outcome(Status.FAILED, "RuntimeError: boom"))
    file.planned(2)
    written_within_seconds(folder, lambda found: not found.running)
    file._write()
    cli.main(["status", *words])
    text = capsys.readouterr().out
    assert "3 of 6 cells done (this run: 1 finished, 1 failed, 1 retries)" in text and "left" in text
    assert f"failed: row · seed 1 ({second.cell.id}): RuntimeError: boom" in text
    file.end()
    cli.main(["status", *words])
    assert "not running; the last run ended" in capsys.readouterr().out


def test_a_driver_that_was_killed(tmp_path: Path) -> None:
    file = status.StatusFile(tmp_path, "s", 2, 0)
    file._write()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    found = status.read(tmp_path)
    assert found is not None and status.alive(found)
    dead = found.model_copy(update={"pid": gone.pid})
    assert not status.alive(dead) and "is gone without a word" in status.render(dead)
    elsewhere = found.model_copy(update={"host": "another", "pid": 1})
    assert status.alive(elsewhere)
    assert not status.alive(elsewhere.model_copy(update={"updated": found.updated - 2 * status.STALE_SECONDS}))


def test_a_torn_or_missing_file(tmp_path: Path) -> None:
    assert status.read(tmp_path) is None
    (tmp_path / status.FILE).write_text('{"sweep":')
    assert status.read(tmp_path) is None


def test_a_full_disk_does_not_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(status, "write_text", full)
    status.StatusFile(tmp_path, "s", 2, 0).started(job(0))
