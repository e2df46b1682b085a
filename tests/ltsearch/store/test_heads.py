"""Heads that a sweep keeps of its records: believed for as long as each record's file is the same, and never needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ltsearch.store import heads
from ltsearch.store.cells import RECORD, CellStore
from ltsearch.store.records import CellRecord, Status
from tests.ltsearch.helpers import record as a_record
from trainables.methods import options_class


@pytest.fixture
def kept(tmp_path: Path) -> CellRecord:
    """A finished cell, in a store in which the sweep "s" has kept its head."""
    store, record = CellStore(tmp_path), a_record()
    store.write(record)
    store.keep_heads("s", [record.cell, "0" * 16])
    return record


def again(tmp_path: Path) -> CellStore:
    """The store as the next command finds it."""
    store = CellStore(tmp_path)
    store.recall_heads("s")
    return store


def spoil(path: Path) -> None:
    """Other content of the same length, without its file or the file's times changing."""
    there = path.stat()
    with path.open("r+b") as file:
        file.write(b"x" * there.st_size)
    os.utime(path, ns=(there.st_atime_ns, there.st_mtime_ns))


def test_a_record_that_was_checked_is_not_read_again(tmp_path: Path, kept: CellRecord) -> None:
    spoil(tmp_path / "cells" / kept.cell / RECORD)
    assert CellStore(tmp_path).head(kept.cell) is None  # what reading it would say
    head = again(tmp_path).head(kept.cell)
    assert head == kept.model_copy(update={"history": [], "per_class": {}, "class_counts": [], "class_names": []})
    assert head is not None and isinstance(head.status, Status)


def test_another_file_is_read(tmp_path: Path, kept: CellRecord) -> None:
    CellStore(tmp_path).write(kept.model_copy(update={"status": Status.DIVERGED}))
    head = again(tmp_path).head(kept.cell)
    assert head is not None and head.status is Status.DIVERGED
    (tmp_path / "cells" / kept.cell / RECORD).write_text("{")
    store = again(tmp_path)
    assert store.head(kept.cell) is None and "not JSON" in store.bad[kept.cell]
    (tmp_path / "cells" / kept.cell / RECORD).unlink()
    assert again(tmp_path).head(kept.cell) is None


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def another_claim(file: Path) -> None:
    file.write_text(file.read_text().replace('"finished"', '"diverged"'))


def garbage(file: Path) -> None:
    file.write_bytes(b"\xff\x00\n{]")


def other_values(file: Path) -> None:
    file.write_text('0\n[[["x"], 7], 3, [null]]')


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [torn, another_claim, garbage, other_values, fifo, folder])
def test_a_damaged_file_is_as_none(tmp_path: Path, kept: CellRecord, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / "sweeps" / "s" / heads.FILE)
    store = again(tmp_path)
    head = store.head(kept.cell)
    assert head is not None and head.status is Status.FINISHED  # from the record
    store.keep_heads("s", [kept.cell])  # over what is there, or not at all
    spoil(tmp_path / "cells" / kept.cell / RECORD)
    assert (again(tmp_path).head(kept.cell) is None) == (damage is folder)


@pytest.mark.parametrize("what", ["another method's options", "another recipe"])
def test_what_another_version_has_checked_is_read_again(
    tmp_path: Path, kept: CellRecord, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It may refuse the configuration, or take it for another cell's."""
    assert kept.config["method"]["name"] == "ncl_pp"
    if what == "another recipe":
        monkeypatch.setitem(heads.RECIPES, "loop", 99)
    else:
        monkeypatch.setattr(heads, "options_class", lambda name: options_class("ldam"))
    assert heads.load(tmp_path / "sweeps" / "s") == {}


def test_a_record_that_leaves_the_method_to_its_default(tmp_path: Path) -> None:
    record = a_record()
    bare = record.model_copy(update={"config": {k: v for k, v in record.config.items() if k != "method"}})
    heads.save(tmp_path, {record.cell: ((1, 2, 3), bare)})
    assert heads.load(tmp_path) == {record.cell: ((1, 2, 3), bare)}
