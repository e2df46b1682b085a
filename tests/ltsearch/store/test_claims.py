"""Who trains a cell, in a folder and in an object store."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import uuid
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store import claims
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
