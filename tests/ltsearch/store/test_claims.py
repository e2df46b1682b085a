"""Who trains a cell, in a folder and in an object store."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store import claims, locks
from ltsearch.store.cells import CLAIM, CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import RemoteLock, SweepLock, sweep_lock
from trainables.errors import UserError
from trainables.files import location


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CellStore:
    if request.param == "folder":
        return CellStore(tmp_path)
    return CellStore(location(f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex[:8]}"))


def test_one_of_two_sweeps_has_a_cell_until_it_lets_go(store: CellStore) -> None:
    with sweep_lock(store.sweep_folder("a")) as a, sweep_lock(store.sweep_folder("b")) as b:
        first, second = Claims(store, a), Claims(store, b)
        assert first.take("c") is None and first.take("c") is None and first.other("c") is None
        who = f"sweep a (process {os.getpid()} on "
        assert str(second.take("c")).startswith(who) and str(second.other("c")).startswith(who)
        second.release("c")  # not its own
        assert second.take("c") is not None
        first.release("c")
        assert second.take("c") is None and str(first.other("c")).startswith("sweep b")
        second.release_all()
        assert not (store.folder("c") / CLAIM).exists()


def test_a_claim_ends_with_its_sweeps_lock(store: CellStore) -> None:
    with sweep_lock(store.sweep_folder("a")) as a:
        assert Claims(store, a).take("c") is None  # and is killed
    with sweep_lock(store.sweep_folder("b")) as b:
        assert Claims(store, b).take("c") is None
    with sweep_lock(store.sweep_folder("a")) as a:  # the same sweep, another run of the command: b is gone
        assert Claims(store, a).take("c") is None


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"sweep": "../x", "mark": "", "pid": 1, "host": ""}', '{"sweep": 3}'])
def test_what_is_no_claim_counts_for_nothing(tmp_path: Path, junk: str) -> None:
    store = CellStore(tmp_path)
    (store.folder("c")).mkdir(parents=True)
    (store.folder("c") / CLAIM).write_text(junk)
    with sweep_lock(store.sweep_folder("a")) as a:
        assert Claims(store, a).other("c") is None and Claims(store, a).take("c") is None


def test_a_remote_holder_that_no_longer_renews_its_lock_is_gone(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = CellStore(location(f"{s3}/{uuid.uuid4().hex[:8]}"))
    monkeypatch.setattr(claims, "DEAD_SECONDS", 0.0)
    monkeypatch.setattr(RemoteLock, "_beat", lambda self: None)  # cut off
    with sweep_lock(store.sweep_folder("a")) as a, sweep_lock(store.sweep_folder("b")) as b:
        assert Claims(store, a).take("c") is None
        second = Claims(store, b)
        assert second.take("c") is not None  # seen for the first time: it may be alive
        assert second.take("c") is None


def _race(folder: Path, name: str, start: Any, won: Any) -> None:
    store = CellStore(folder)
    with SweepLock(store.sweep_folder(name)) as lock:
        mine = Claims(store, lock)
        start.wait()
        won.put([cell for cell in map(str, range(200)) if mine.take(cell) is None])
        start.wait()  # both locks are held until both are through


def test_of_drivers_that_claim_at_the_same_moment_one_gets_each_cell(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, won = context.Barrier(3), context.Queue()
    racers = [context.Process(target=_race, args=(tmp_path, name, start, won)) for name in "abc"]
    for racer in racers:
        racer.start()
    got = [cell for _ in racers for cell in won.get(timeout=60)]
    for racer in racers:
        racer.join(60)
    assert sorted(got, key=int) == list(map(str, range(200)))


def test_a_file_system_without_locks_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"a/lock: this file system has no locks \(No locks available\).* on NFS, see"):
        SweepLock(tmp_path / "a").__enter__()


def test_locks_that_stay_with_their_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose locks other hosts do not see: a claim counts as long as its lock is renewed."""
    store = CellStore(tmp_path)
    with SweepLock(store.sweep_folder("a")) as a, SweepLock(store.sweep_folder("b")) as b:
        first, second = Claims(store, a), Claims(store, b)
        first.mine["host"] = "elsewhere"
        assert first.take("c") is None
        monkeypatch.setattr(claims, "held_mark", lambda folder: None)
        assert str(second.other("c")).endswith("on elsewhere)")
        monkeypatch.setattr(claims, "DEAD_SECONDS", 0.0)
        assert second.other("c") is None  # not renewed since
        os.utime(a.path)
        assert second.other("c") is not None
        monkeypatch.setattr(claims, "DEAD_SECONDS", 1e3)
        long_ago = time.time() - 1e4
        os.utime(a.path, (long_ago, long_ago))
        assert second.take("c") is None


def test_a_lock_from_another_host_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "DEAD_SECONDS", 2.0)
    folder, told = tmp_path / "a", list[str]()
    folder.mkdir()
    (folder / "lock").write_text("7 on elsewhere abc")
    with SweepLock(folder, told.append):
        assert told == ["a: process 7 on elsewhere had it; waiting up to 2 s to see whether it is alive"]
    with SweepLock(folder, told.append):  # it was let go of
        assert len(told) == 1
    (folder / "lock").write_text("7 on elsewhere abc")
    os.utime(folder / "lock", (0, 0))
    with SweepLock(folder, told.append):  # dead for long
        assert len(told) == 1
    (folder / "lock").write_text("7 on elsewhere abc")
    alive, over = threading.Event(), threading.Event()

    def beat() -> None:
        while not over.wait(0.2):
            os.utime(folder / "lock")
            alive.set()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert alive.wait(10)
        with pytest.raises(UserError, match=r"a is already being run \(process 7 on elsewhere\)"):
            SweepLock(folder, told.append).__enter__()
    finally:
        over.set()
        thread.join()


def test_a_holder_renews_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.05)
    with SweepLock(tmp_path / "a") as lock:
        os.utime(lock.path, (0, 0))
        deadline = time.monotonic() + 20
        while locks.touched(tmp_path / "a", lock.mark) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (locks.touched(tmp_path / "a", lock.mark) or 0) > 0 and locks.touched(tmp_path / "a", "other") is None
        assert locks.current_mark(tmp_path / "a") == lock.mark
    assert locks.current_mark(tmp_path / "a") is None and lock.path.read_text() == ""
