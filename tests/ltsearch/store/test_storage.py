"""Storage in an object store: files, records, the journal and the lock, on a real S3 server (moto)."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.storages import JournalStorage

from ltsearch.search import journal
from ltsearch.search.journal import FileJournal, ObjectJournal
from ltsearch.search.optuna_internals import REPORT
from ltsearch.store import conditional, locks
from ltsearch.store.cells import CHECKPOINT, CellStore, storage_root
from ltsearch.store.locks import RemoteLock, sweep_lock
from ltsearch.store.records import Status
from tests.ltsearch.helpers import record as a_record
from trainables import checkpoint
from trainables.errors import UserError
from trainables.files import RemotePath, fetch, location, write_text


@pytest.fixture
def folder(s3: str) -> RemotePath:
    """An empty one."""
    place = location(f"{s3}/{uuid.uuid4().hex[:8]}")
    assert isinstance(place, RemotePath)
    return place


@pytest.fixture(params=["s3", "local"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> RemotePath:
    """A folder of an object store, and of a pyarrow file system that knows how to rename."""
    if request.param == "local":
        return RemotePath(tmp_path.as_uri())
    found = request.getfixturevalue("folder")
    assert isinstance(found, RemotePath)
    return found


def test_files(place: RemotePath) -> None:
    file = place / "a" / "b.txt"
    assert not file.exists() and (place / "a").names() == []
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)
    write_text(file, "one")
    write_text(file, "twö")
    sent = pickle.loads(pickle.dumps(file))
    assert "_place" not in sent.__dict__  # it connects by the environment of where it arrives
    assert sent.read_text() == "twö" and sent.name == "b.txt" and file.exists()
    assert (place / "a").names() == ["b.txt"]  # no temporary file is left
    file.unlink()
    assert not file.exists()


def test_a_write_that_fails_leaves_the_old_file(place: RemotePath) -> None:
    write_text(place / "x", "old")

    class Unwritable:
        def __reduce__(self) -> object:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        checkpoint.save(place / "x", {"a": Unwritable()})
    assert (place / "x").read_text() == "old"


def test_checkpoints(place: RemotePath, tmp_path: Path) -> None:
    assert checkpoint.load(place / "none.pt") is None
    checkpoint.save(place / "c.pt", {"w": torch.arange(5.0), "epoch": 3})
    state = checkpoint.load(place / "c.pt")
    assert state is not None and state["epoch"] == 3 and torch.equal(state["w"], torch.arange(5.0))
    copies = tmp_path / "copies"
    copies.mkdir()
    assert torch.load(fetch(place / "c.pt", copies), weights_only=True)["epoch"] == 3


class Stranger:
    """What a pickle of someone else may hold: to load it would be to run code."""

    loaded = 0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Stranger, ()

    def __init__(self) -> None:
        Stranger.loaded += 1


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_checkpoint_is_none(place: RemotePath, tmp_path: Path) -> None:
    stranger, file = Stranger(), io.BytesIO()
    before = Stranger.loaded
    torch.save({"epoch": 1, "x": stranger}, file)
    checkpoint.save(place / "c.pt", {"w": torch.arange(5.0)})
    whole = (place / "c.pt").read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2], pickle.dumps({"x": stranger}), file.getvalue()):
        (place / "c.pt").write(content)
        (tmp_path / "local.pt").write_bytes(content)
        assert checkpoint.load(place / "c.pt") is None and checkpoint.load(tmp_path / "local.pt") is None
    checkpoint.save(place / "c.pt", [1, 2])  # type: ignore[arg-type]
    assert checkpoint.load(place / "c.pt") is None
    assert Stranger.loaded == before


def test_records(folder: RemotePath) -> None:
    store, another = CellStore(folder), CellStore(str(folder))
    record = a_record(Status.RUNNING)
    cell = record.cell
    assert store.read(cell) is None
    store.write(record)
    (folder / "cells" / cell / CHECKPOINT).write(b"x")
    assert another.read(cell) == record  # not settled: read again every time
    done = store.settle(record, Status.FINISHED)
    assert another.read(cell) == done and not (folder / "cells" / cell / CHECKPOINT).exists()
    another.clear(cell)
    assert another.read(cell) is None
    store.remember_fingerprint("s", "f")
    assert another.known_fingerprint("s") == "f"
    store.check_writable()
    assert folder.names() == ["cells", "fingerprints.json"]


def study(folder: RemotePath) -> optuna.Study:
    return optuna.create_study(
        storage=JournalStorage(journal.journal(folder)),
        study_name="s",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )


def test_the_journal_is_optunas(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of a study that is opened again and again, with merges in between, are those of one in memory."""
    monkeypatch.setattr(journal, "MERGE_AFTER", 7)
    assert not journal.exists(folder)
    memory = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for i in range(6):
        for s in (study(folder), memory):
            s.sampler = optuna.samplers.RandomSampler(seed=i)
            s.optimize(lambda t: t.suggest_float("x", 0, 1), n_trials=1)
    assert [(t.params, t.values) for t in study(folder).trials] == [(t.params, t.values) for t in memory.trials]
    assert 1 <= len((folder / journal.FOLDER).names()) < 8 + 6 * 5 / 7  # some five writes a trial
    journal.forget(folder)
    assert not journal.exists(folder)


def test_epochs_cost_no_request_and_large_objects_are_not_written_again(
    folder: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "MERGE_AFTER", 5)
    written: list[tuple[str, int]] = []
    put = RemotePath.write
    monkeypatch.setattr(
        RemotePath, "write", lambda self, text: (written.append((self.name, len(text))), put(self, text))
    )
    kept = ObjectJournal(folder)
    for trial in range(40):
        kept.append_logs([{"op_code": 4, "trial": trial}])
        for epoch in range(9):
            kept.append_logs([{"op_code": REPORT, "trial": trial, "epoch": epoch}])
    assert len(written) <= 40 * (1 + 1 / 5) and max(size for _, size in written) < 6 * 10 * 60
    assert list(kept.read_logs(0))[-1] == {"op_code": REPORT, "trial": 39, "epoch": 8}  # of this process, at once
    found = list(ObjectJournal(folder).read_logs(0))
    assert found == list(kept.read_logs(0))[: 39 * 10 + 1]  # a kill loses the epochs since the last proposal or end
    assert len(folder.names()) <= 40 / 6 + 6


def test_a_kill_while_the_journal_is_merged(folder: RemotePath) -> None:
    kept = ObjectJournal(folder)
    logs = [{"i": i} for i in range(9)]
    for i in range(0, 9, 3):
        kept.append_logs(logs[i : i + 3])
    merged = "".join(f'{{"i": {i}}}\n' for i in range(9))
    (folder / "0000000000.jsonl").write(merged.encode())  # the others are still there
    again = ObjectJournal(folder)
    assert list(again.read_logs(0)) == logs
    again.append_logs([{"i": 9}])
    assert list(ObjectJournal(folder).read_logs(7)) == [{"i": 7}, {"i": 8}, {"i": 9}]
    (folder / "0000000000.jsonl").unlink()
    with pytest.raises(UserError, match="logs 0 to 3 are missing"):
        ObjectJournal(folder)


def test_a_torn_line_does_not_spoil_the_file(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    FileJournal(path).append_logs([{"i": 0}, {"i": 1}])
    with open(path, "ab") as file:
        file.write(b'{"i": ')
    again = FileJournal(path)
    again.append_logs([{"i": 2}])
    assert list(FileJournal(path).read_logs(0)) == [{"i": 0}, {"i": 1}, {"i": 2}]


def hold(uri: str, held: multiprocessing.Event, let_go: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    with sweep_lock(RemotePath(uri)):
        held.set()
        let_go.wait(60)


def test_the_lock(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused while its holder renews it; taken over at once from a dead process of this machine."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.5)
    context = multiprocessing.get_context("fork")
    held, let_go = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(folder.uri, held, let_go), daemon=True)
    holder.start()
    assert held.wait(60)
    with pytest.raises(UserError, match=f"already being run .process {holder.pid} on"), sweep_lock(folder):
        raise AssertionError
    holder.kill()
    holder.join()
    with sweep_lock(folder):
        pass
    assert folder.names() == []


def _take(uri: str, start: Any, won: Any) -> None:
    path = RemotePath(f"{uri}/claim")
    start.wait(60)
    won.put([n for n in range(20) if conditional.replace(path / str(n), str(os.getpid()).encode(), None)])
    start.wait(60)
    won.put([n for n in range(20) if conditional.replace(path / f"dead{n}", str(os.getpid()).encode(), b"dead")])


def test_of_writers_at_the_same_moment_one_gets_each_object(folder: RemotePath) -> None:
    """Where nothing is, and where all have seen the same."""
    for n in range(20):
        (folder / "claim" / f"dead{n}").write(b"dead")
    context = multiprocessing.get_context("spawn")
    start, won = context.Barrier(4), context.Queue()
    writers = [context.Process(target=_take, args=(folder.uri, start, won), daemon=True) for _ in range(4)]
    for writer in writers:
        writer.start()
    taken = [won.get(timeout=120) for _ in range(8)]
    for writer in writers:
        writer.join(60)
    won_by = Counter(n for one in taken for n in one)
    # Every object was won. By one each on S3; moto's own check and write have a gap between them.
    assert set(won_by) == set(range(20)) and won_by.total() <= 2 * 20 + 4
    mine = folder / "claim" / "0"
    assert conditional.replace(mine, b"x", b"other than it is") is False
    assert conditional.replace(folder / "nothing", b"x", b"gone meanwhile") is False
    assert conditional.replace(mine, b"x", mine.read_bytes()) is True and mine.read_bytes() == b"x"
    assert conditional.replace(RemotePath("s3://no-such-bucket/x"), b"x", None) is None  # pyarrow says what is wrong


def test_a_store_that_does_not_answer_is_told_apart_from_one_without_conditions(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RemotePath(f"{s3}/x")
    assert place._place
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="127.0.0.1:9"):
        conditional.replace(place, b"x", None)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:10")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert conditional.replace(place, b"x", None) is None  # boto3 has no credentials
    monkeypatch.setenv("AWS_ENDPOINT_URL", "not a server")
    assert conditional.replace(place, b"x", None) is None


def test_other_stores_have_nothing_of_that_kind(tmp_path: Path) -> None:
    place = RemotePath(f"{tmp_path.as_uri()}/x")
    assert conditional.replace(place, b"x", None) is None and not place.exists()


def test_a_lock_that_another_has_taken_over(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that was away for too long ends, and leaves the lock to its successor."""
    monkeypatch.setattr(locks, "BEAT_SECONDS", 0.2)
    ended: list[int] = []
    monkeypatch.setattr(locks.os, "kill", lambda pid, how: ended.append(how))
    said: list[str] = []
    theirs = b'{"mark": "m", "host": "another", "pid": 1, "beat": 0}'
    with RemoteLock(folder, said.append) as held:
        (folder / "lock.json").write(theirs)
        held._thread.join(30)
    assert ended == [signal.SIGTERM] and "process 1 on another has taken over" in said[0]
    assert (folder / "lock.json").read_bytes() == theirs


def test_the_lock_of_a_dead_driver_elsewhere(folder: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is watched, and taken once it was not renewed."""
    monkeypatch.setattr(locks, "DEAD_SECONDS", 3.0)
    (folder / "lock.json").write(b'{"mark": "m", "host": "another", "pid": 1, "beat": 0}')
    said: list[str] = []
    with RemoteLock(folder, said.append):
        pass
    assert "process 1 on another" in said[0]


@pytest.mark.parametrize("other", [{"machine": "another boot"}, {"host": "another"}, {"pid": os.getpid()}, {}])
def test_a_dead_process_is_known_on_its_own_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, object]
) -> None:
    """Two machines of one host name number their processes by themselves."""
    monkeypatch.setattr(locks, "DEAD_SECONDS", 0.5)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    here = {"mark": "m", "host": socket.gethostname(), "machine": locks._machine(), "pid": process.pid, "beat": 0}
    folder = RemotePath(tmp_path.as_uri())
    (folder / "lock.json").write(json.dumps({**here, **other}).encode())
    said: list[str] = []
    with RemoteLock(folder, said.append) as held:
        kept = json.loads((folder / "lock.json").read_bytes())
        assert (kept["mark"], kept["machine"]) == (held.mark, here["machine"])
    assert bool(said) == bool(other)  # whether it was waited for


@pytest.mark.parametrize(
    "uri,said",
    [
        ("foo://bucket/x", "Unrecognized filesystem"),
        ("s3://", "no bucket"),
        ("s3://key:hidden@bucket/x", "credentials"),
    ],
)
def test_uris_that_cannot_be_used(uri: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        location(uri)
    assert "hidden" not in str(error.value)


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(UserError, match=r"--storage s3://no-such-bucket/x: not writable .*bucket"):
        CellStore("s3://no-such-bucket/x").check_writable()


def test_where_storage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LTSEARCH_STORAGE", raising=False)
    assert storage_root(None) == "store"
    monkeypatch.setenv("LTSEARCH_STORAGE", "/shared")
    assert storage_root(None) == "/shared" and storage_root("here") == "here"
    assert location("here") == Path("here").absolute() and location("file:///a/b") == Path("/a/b")
