"""Stores that hold what a sweep must not believe, or cannot go on with: named, kept aside, and never in the way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.run.outstanding import forget
from ltsearch.run.queue import Queue
from ltsearch.search import journal
from ltsearch.search.journal import FileJournal
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from ltsearch.sweep import main
from tests.ltsearch.helpers import record as a_record
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError

CONTENT = "fingerprint"


def plan_of(folder: Path, **over: Any) -> Plan:
    return make_plan(load(write(folder, study(**over))))


def finished(plan: Plan, store: CellStore, number: int = 0) -> CellRecord:
    """A finished cell of the plan, in the store, with its weights."""
    cell = plan.cells[number]
    config = cell.config.model_dump(mode="json")
    history = [Epoch(epoch=9, metrics={"test/single_class_mean": 0.5, "train/loss": 1.0, "seconds": 1.0})]
    record = CellRecord(cell=cell.id, config=config, recipes={}, status=Status.FINISHED, history=history)
    store.write(record)
    (store.folder(cell.id) / "weights.pt").write_bytes(b"weights")
    return record


def spoil(path: Path, how: str) -> None:
    tree = json.loads(path.read_text())
    match how:
        case "a key that this version lacks":
            tree["config"]["training"]["swa"] = True
        case "another cell's record":
            tree = json.loads(a_record(seed=7).model_dump_json())
        case "another configuration":
            tree["config"]["seed"] = 99
        case "NaN":
            tree["history"][0]["metrics"]["train/loss"] = float("nan")
        case "no history":
            tree["history"] = [1]
    path.write_text(json.dumps(tree)[: 40 if how == "half" else None])


BAD = [
    (
        "a key that this version lacks",
        "its configuration is not one of this version: unknown key 'training.swa'",
    ),
    ("another cell's record", f"it is the record of cell '{a_record(seed=7).cell}'"),
    ("another configuration", "the configuration in it is that of cell "),
    ("NaN", "history.0.metrics.train/loss = nan: not a finite number"),
    ("no history", "history.0 = 1: input should be"),
    ("half", "it is not JSON (EOF while parsing"),
]


@pytest.mark.parametrize(("how", "said"), BAD)
def test_what_is_not_the_cells_record_does_not_count(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--plan`` names the file, and leaves it; the queue keeps it aside and trains the cell."""
    monkeypatch.chdir(tmp_path)
    plan, store = plan_of(tmp_path), CellStore(tmp_path / "store")
    record = finished(plan, store)
    file = store.folder(record.cell) / "record.json"
    spoil(file, how)
    spoilt = file.read_bytes()

    assert main(["study.yaml", "--plan"]) == 0
    shown = capsys.readouterr().out
    assert f"{file}: {said}" in shown and "it does not count: the cell is trained again" in shown
    assert f"0: {record.cell} missing" in shown
    assert file.read_bytes() == spoilt

    told: list[str] = []
    queue = Queue(plan, store, None, [], lambda record: False)
    queue.say = told.append
    job = queue.next()
    assert job is not None and job.cell.id == record.cell
    assert len(told) == 1 and told[0].startswith(f"{file}: {said}")
    assert told[0].endswith("; the cell is trained again, and what lay there is kept beside it as *.aside")
    assert sorted(p.name for p in file.parent.iterdir()) == ["record.json.aside", "weights.pt.aside"]
    assert (file.parent / "record.json.aside").read_bytes() == spoilt


def test_a_record_that_is_the_cells_counts(tmp_path: Path) -> None:
    plan, store = plan_of(tmp_path), CellStore(tmp_path / "store")
    record = finished(plan, store)
    assert store.read(record.cell) == record and not store.bad
    assert store.set_aside_if_bad(record.cell) == ""
    assert store.read(record.cell) == record


def test_what_is_kept_aside_twice(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    record = a_record()
    for _ in range(3):
        store.write(record)
        store.set_aside(record.cell, "x")
    kept = sorted(p.name for p in store.folder(record.cell).iterdir())
    assert kept == ["record.json.aside", "record.json.aside-2", "record.json.aside-3"]


# -- the journal -----------------------------------------------------------------------------------------------------------


def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, CellStore, Path, str]:
    """A study whose search has asked for a trial, which has run; its journal and the trial's cell."""
    monkeypatch.setattr("ltsearch.plan.sources.content", lambda *_: CONTENT)
    plan, store = plan_of(tmp_path), CellStore(tmp_path / "store")
    folder = store.sweep_folder(plan.loaded.sweep)
    asked = SearchStudy(plan, folder, CONTENT).ask()
    assert asked is not None
    _, cell = asked
    config = cell.config.model_dump(mode="json")
    store.write(CellRecord(cell=cell.id, config=config, recipes={}, status=Status.FINISHED))
    return plan, store, Path(str(folder)) / journal.FILE, cell.id


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", ", line 3: not JSON: the search cannot go on with it; --fresh begins this study again"),
        ("[1]", ", line 3: not one of Optuna's logs: "),
        ('{"op_code": 4}', ": cannot be replayed (KeyError: "),
        ('{"op_code": 99, "worker_id": "w"}', ": cannot be replayed ("),
    ],
)
def test_a_bad_line_in_the_journal(line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, store, file, cell = searched(tmp_path, monkeypatch)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(UserError) as refused:
        outstanding.existing_study(plan, store, tmp_path)
    assert f"{file}{said}" in str(refused.value)
    assert store.read(cell) is not None

    forget(
        plan, store, tmp_path, Claims(store, SweepLock(store.sweep_folder("x"))), say=print
    )  # --fresh: what the journal still tells of is forgotten, and it as well
    assert store.read(cell) is None and not file.exists()
    assert outstanding.existing_study(plan, store, tmp_path) is None
    assert SearchStudy(plan, file.parent, CONTENT).ask() is not None


def test_a_lock_that_points_nowhere_is_not_waited_for(tmp_path: Path) -> None:
    """Optuna's own lock, left by a kill in a store that was moved since, made it try again and again, without a word."""
    path = tmp_path / journal.FILE
    (tmp_path / f"{journal.FILE}.lock").symlink_to("/no/such/journal")

    def endless(*_: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, endless)
    signal.alarm(20)
    try:
        FileJournal(path).append_logs([{"op_code": 0}])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert list(FileJournal(path).read_logs(0)) == [{"op_code": 0}]


def test_two_writers_take_turns(tmp_path: Path) -> None:
    path = tmp_path / journal.FILE
    FileJournal(path)
    children = []
    for number in range(4):
        if (child := os.fork()) == 0:
            mine = FileJournal(path)
            for i in range(25):
                mine.append_logs([{"op_code": number, "i": i, "filler": "x" * 2000}])
            os._exit(0)
        children.append(child)
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert len(list(FileJournal(path).read_logs(0))) == 100
