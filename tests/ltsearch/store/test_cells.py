"""Records and locks on a disk: torn, full, killed, held by another."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store.cells import CellStore
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import Status
from tests.ltsearch.helpers import record as a_record
from trainables.errors import UserError


def test_a_torn_record_is_no_record(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    record = a_record()
    store.write(record)
    assert store.read(record.cell) == record
    path = store.folder(record.cell) / "record.json"
    path.write_text(path.read_text()[:20])
    assert store.read(record.cell) is None


def test_writing_fails_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CellStore(tmp_path)
    record = a_record(Status.RUNNING)
    store.write(record)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(record.model_copy(update={"status": Status.FINISHED}))
    assert store.read(record.cell).status is Status.RUNNING
    assert [p.name for p in store.folder(record.cell).iterdir()] == ["record.json"]


@pytest.mark.parametrize("how", ["settle", "clear"])
def test_what_a_kill_left_half_written_goes_with_the_checkpoint(tmp_path: Path, how: str) -> None:
    store = CellStore(tmp_path)
    record = a_record(Status.RUNNING)
    store.write(record)
    folder = store.folder(record.cell)
    for name in ("checkpoint.pt", ".checkpoint.pt.0123abcd.tmp", ".record.json.0123abcd.tmp", "weights.pt"):
        (folder / name).write_text("x")
    if how == "settle":
        store.settle(record, Status.INTERRUPTED)
        assert (folder / "checkpoint.pt").exists()  # it may go on
        store.settle(record, Status.FINISHED)
    else:
        store.clear(record.cell)
    left = {path.name for path in folder.iterdir()}
    assert left == ({"record.json", "weights.pt"} if how == "settle" else set())


def test_unwritable_storage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--storage .*file/x: not writable .*name another folder"):
        CellStore(tmp_path / "file" / "x").check_writable()


def test_one_driver_a_sweep(tmp_path: Path) -> None:
    with SweepLock(tmp_path / "s"):
        with pytest.raises(UserError, match=r"s is already being run \(process \d+ on \S+\)"):
            with SweepLock(tmp_path / "s"):
                pass
    with SweepLock(tmp_path / "s"):
        pass


@pytest.mark.parametrize("there", ["", "store", "store/sweeps", "store/cells"])
def test_a_sweep_that_is_refused_leaves_nothing_of_its_lock(tmp_path: Path, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = set(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="no room"), SweepLock(tmp_path / "store" / "sweeps" / "s") as held:
        assert held.path.exists()
        raise UserError("no room for a trial")
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, OSError])
def test_a_sweep_that_has_begun_keeps_its_lock_file(tmp_path: Path, end: type[BaseException] | None) -> None:
    folder = tmp_path / "store" / "sweeps" / "s"
    with contextlib.suppress(*filter(None, [end])), SweepLock(folder):
        if end is not None:
            raise end
    assert [path.name for path in folder.iterdir()] == ["lock"]
    with pytest.raises(UserError, match="refused"), SweepLock(folder):  # another run of it
        raise UserError("refused")
    assert [path.name for path in folder.iterdir()] == ["lock"]
