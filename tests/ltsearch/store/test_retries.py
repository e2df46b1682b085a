"""A disk that is full, or a store that is away, for a while: what the driver writes is written once, or it says so."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend

from ltsearch.search import journal
from ltsearch.search.journal import FileJournal, ObjectJournal
from ltsearch.store import retries
from ltsearch.store.retries import StorageError, patiently
from trainables.files import RemotePath


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_SECONDS", 0.0)


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def failing(times: int, work: Callable[..., Any], *, after: bool = False) -> Callable[..., Any]:
    """``work`` that fails so often, before or after it has done something."""
    left = iter(range(times))

    def shaky(*args: Any) -> Any:
        if next(left, None) is None:
            return work(*args)
        if after:
            work(*args)
        raise full()

    return shaky


def test_it_is_tried_again_and_said_once() -> None:
    said: list[str] = []
    assert patiently(failing(2, lambda: "done"), said.append) == "done"
    assert said == ["the storage takes no writes (No space left on device); waiting up to 300 s"]
    assert patiently(lambda: "done", said.append) == "done" and len(said) == 1


def test_it_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "GIVE_UP_SECONDS", 0.05)
    tries: list[int] = []

    def never() -> None:
        tries.append(1)
        raise full()

    said: list[str] = []
    with pytest.raises(StorageError, match="took no writes for 0.05 s .No space left on device.") as error:
        patiently(never, said.append)
    assert error.value.errno == errno.ENOSPC and len(tries) > 1 and len(said) == 1
    tries.clear()
    with pytest.raises(StorageError):  # nothing waits twice over
        patiently(failing(1, lambda: patiently(never, said.append)), said.append)
    with pytest.raises(ValueError, match="not the storage's"):
        patiently(lambda: int("not the storage's"), said.append)
    assert len(said) == 3


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_that_passes_adds_lines_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    """Also if a part of them was written before it was full."""
    kept = FileJournal(tmp_path / journal.FILE)
    kept.append_logs([{"i": 0}])
    real = JournalFileBackend.append_logs
    shaky = failing(2, real)

    def append(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        if half and len(logs) > 1:
            try:
                shaky(self, logs)
            except OSError:
                with open(tmp_path / journal.FILE, "ab") as file:
                    file.write(b'{"i": 1}\n{"i"')
                raise
        else:
            shaky(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append)
    kept.append_logs([{"i": 1}, {"i": 2}])
    kept.append_logs([{"i": 3}])
    want = [{"i": i} for i in range(4)]
    assert [json.loads(line) for line in (tmp_path / journal.FILE).read_text().splitlines()] == want
    assert list(kept.read_logs(0)) == list(FileJournal(tmp_path / journal.FILE).read_logs(0)) == want


def test_a_disk_that_stays_full_adds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FileJournal(tmp_path / journal.FILE)
    kept.append_logs([{"i": 0}])
    before = (tmp_path / journal.FILE).read_bytes()
    monkeypatch.setattr(retries, "GIVE_UP_SECONDS", 0.0)
    monkeypatch.setattr(JournalFileBackend, "append_logs", failing(1000, JournalFileBackend.append_logs, after=True))
    with pytest.raises(StorageError):
        kept.append_logs([{"i": 1}])
    assert (tmp_path / journal.FILE).read_bytes() == before


def test_an_object_store_that_is_away_adds_lines_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the object was written, and only the answer was lost; a merge that fails is made with the next lines."""
    monkeypatch.setattr(journal, "MERGE_AFTER", 2)
    folder = RemotePath((tmp_path / "journal").as_uri())
    kept = ObjectJournal(folder)
    for after in (False, True):
        monkeypatch.setattr(RemotePath, "write", failing(2, RemotePath.write, after=after))
        kept.append_logs([{"i": len(kept.logs)}, {"i": len(kept.logs) + 1}])
    merges = failing(1, ObjectJournal._merge)
    monkeypatch.setattr(ObjectJournal, "_merge", lambda self: merges(self))
    kept.append_logs([{"i": 4}])
    assert len(folder.names()) == 3  # not merged
    kept.append_logs([{"i": 5}])
    assert len(folder.names()) == 1
    assert list(ObjectJournal(folder).read_logs(0)) == kept.logs == [{"i": i} for i in range(6)]
