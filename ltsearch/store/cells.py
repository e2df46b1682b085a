"""The store: ``<storage>/cells/<id>/`` with a record, and while a cell runs its checkpoint; shared by all sweeps.

It is a local or shared folder, or a folder of an object store. Every file is replaced as a whole: a kill leaves the old or the
new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ltsearch.store import heads
from ltsearch.store.permissions import DENIED, denied
from ltsearch.store.records import FINAL_ARTIFACT, SETTLED, CellRecord, Status
from ltsearch.store.validation import BadRecord, parse
from trainables.errors import UserError
from trainables.files import (
    ASIDE,
    OWN,
    Location,
    NotRegular,
    RemotePath,
    keep_aside,
    location,
    read_regular,
    shown,
    write_text,
)

RECORD, CHECKPOINT, WEIGHTS = "record.json", "checkpoint.pt", "weights.pt"
CLAIM = "claim.json"  # who trains it
HUNG = "hung.txt"  # what a process was doing that did nothing any more
STORAGE_VARIABLE = "LTSEARCH_STORAGE"


def _whole(path: Location) -> bytes:
    return read_regular(path) if isinstance(path, Path) else path.read_bytes()


def storage_root(option: str | None) -> str:
    """``--storage``, then LTSEARCH_STORAGE, then ``store`` in the working directory."""
    return option or os.environ.get(STORAGE_VARIABLE) or "store"


class CellStore:
    """Cells below a local or shared folder, or one of an object store."""

    def __init__(self, root: str | Location) -> None:
        """Nothing is written until a cell is. Raises ``UserError`` for a URI that cannot be used."""
        self.root = location(root)
        self.bad: dict[str, str] = {}  # cells in whose folder something else than their record lies, and what of it
        self._known: dict[str, CellRecord] = {}  # of an object store: settled records, which stay as they are
        self._heads: heads.Heads = {}  # of a folder, with what tells of a change

    def check_writable(self) -> None:
        """Raises ``UserError`` if the folder cannot be created or written to; leaves nothing behind."""
        if isinstance(self.root, RemotePath):
            probe = self.root / f".ltsearch-{uuid.uuid4().hex[:8]}"
            try:
                probe.write(b"")
                probe.unlink()
            except OSError as error:
                raise UserError(
                    f"--storage {self.root}: not writable ({' '.join(str(error).split())}); check the bucket's name and the "
                    "credentials in the environment, or name another place with --storage"
                ) from None
            return
        there = next(p for p in (self.root, *self.root.parents) if p.exists())
        try:
            # Tried, not asked: permissions alone do not tell of read-only or special file systems.
            os.rmdir(tempfile.mkdtemp(prefix=".ltsearch-", dir=there))
        except OSError as error:
            raise UserError(
                f"--storage {self.root}: not writable ({there}: {error.strerror or error}); name another folder with --storage"
            ) from None

    def folder(self, cell: str) -> Location:
        """Where a cell lives."""
        return self.root / "cells" / cell

    def cells(self) -> list[str]:
        """Ids of all cells that have a folder, in order."""
        folder = self.root / "cells"
        if isinstance(folder, RemotePath):
            return folder.names()
        return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []

    def sweep_folder(self, sweep: str) -> Location:
        """Where a sweep keeps its Optuna journal, its status and its lock."""
        return self.root / "sweeps" / sweep

    def read(self, cell: str) -> CellRecord | None:
        """The record of a cell; None if there is none, or if what lies there is not it: ``bad`` then says why.

        Raises ``UserError`` if it may not be read.
        """
        if cell in self._known:
            return self._known[cell]
        path = self.folder(cell) / RECORD
        self.bad.pop(cell, None)
        try:
            record = parse(self._bytes(path), cell)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except BadRecord as error:
            self.bad[cell] = f"{shown(path)}: {error}"
            return None
        except OSError as error:
            if error.errno in DENIED:
                raise denied(error, path) from None
            raise
        if isinstance(self.root, RemotePath) and record.status in SETTLED:
            self._known[cell] = record
        return record

    def head(self, cell: str) -> CellRecord | None:
        """As ``read``, without epochs and what there is of every class; remembered while its file is the same, by its inode.

        For what is asked of all cells of a large study, and more than once. A folder of the network may take a while to show
        what another host has written: before something is thrown away or told to have failed, ``read`` it.
        """
        try:
            there = os.stat(f"{self.root}/cells/{cell}/{RECORD}") if isinstance(self.root, Path) else None
        except OSError:  # it is told by who reads it
            there = None
        if there is None:
            return self.read(cell)
        mark = there.st_ino, there.st_size, there.st_mtime_ns
        if (known := self._heads.get(cell)) is not None and known[0] == mark:
            return known[1]
        if (record := self.read(cell)) is None:
            return None
        head = record.model_copy(update={"history": [], "per_class": {}, "class_counts": [], "class_names": []})
        self._heads[cell] = mark, head
        return head

    def recall_heads(self, sweep: str) -> None:
        """Heads that the sweep has kept, so that not all of its records are read and checked again."""
        if isinstance(folder := self.sweep_folder(sweep), Path):
            self._heads |= heads.load(folder)

    def keep_heads(self, sweep: str, cells: Iterable[str]) -> None:
        """Keep those of a sweep's cells beside its journal; where that fails, records are read again."""
        if isinstance(folder := self.sweep_folder(sweep), Path):
            with suppress(OSError, UserError, ValueError):
                there = [cell for cell in cells if self.head(cell) is not None]
                heads.save(folder, {cell: self._heads[cell] for cell in there if cell in self._heads})

    @staticmethod
    def _bytes(path: Location) -> bytes:
        """A file's content. A store that does not answer for a moment has not lost its files: tried again, then ``OSError``."""
        for pause in (0.5, 2.0, 5.0):
            try:
                return _whole(path)
            except OSError as error:
                if isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno in DENIED:
                    raise
                if isinstance(error, NotRegular | IsADirectoryError):
                    raise BadRecord(error.strerror) from None
                time.sleep(pause)
        return _whole(path)

    def write(self, record: CellRecord) -> None:
        """Replace a cell's record."""
        self._known.pop(record.cell, None)
        write_text(self.folder(record.cell) / RECORD, record.model_dump_json(indent=1))

    def settle(self, record: CellRecord, status: Status, error: str | None = None) -> CellRecord:
        """Write a record's last state. Only what may go on keeps its checkpoint."""
        settled = record.model_copy(update={"status": status, "error": error, "ended": time.time()})
        self.write(settled)
        if status not in (Status.INTERRUPTED, Status.FAILED):
            (self.folder(record.cell) / CHECKPOINT).unlink(missing_ok=True)
            if record.config.get("custom"):
                self._forget_own(record.cell)
            self._sweep_up(record.cell)
        return settled

    def _sweep_up(self, cell: str) -> None:
        """Files that were being written when a process was killed."""
        folder = self.folder(cell)
        for left in folder.glob(".*.tmp") if isinstance(folder, Path) else ():
            left.unlink(missing_ok=True)

    def clear(self, cell: str) -> None:
        """Forget a cell: its record first, so that a kill in between leaves no record without files."""
        self.set_aside_if_bad(cell)
        self._known.pop(cell, None)
        folder = self.folder(cell)
        for name in (RECORD, CHECKPOINT, FINAL_ARTIFACT, WEIGHTS, HUNG):
            (folder / name).unlink(missing_ok=True)
        self._forget_own(cell)
        self._sweep_up(cell)

    def _forget_own(self, cell: str) -> None:
        """What a trainable of the user's own kept there."""
        own = self.folder(cell) / OWN
        if isinstance(own, Path):
            shutil.rmtree(own, ignore_errors=True)
        else:
            for name in own.names():
                (own / name).unlink(missing_ok=True)

    def set_aside(self, cell: str, why: str) -> str:
        """Rename what lies in a cell's folder: the cell is trained anew, and nothing is lost. Returns what to tell."""
        self._known.pop(cell, None)
        self.bad.pop(cell, None)
        for name in (
            RECORD,
            CHECKPOINT,
            WEIGHTS,
            FINAL_ARTIFACT,
        ):  # with a wrong record, weights may be another cell's too
            keep_aside(self.folder(cell) / name)
        if isinstance(own := self.folder(cell) / OWN, Path):
            keep_aside(own)
        else:
            self._forget_own(cell)
        return f"{why}; the cell is trained again, and what lay there is kept beside it as *{ASIDE}"

    def set_aside_if_bad(self, cell: str) -> str:
        """The same if what lies there is not the cell's record; else nothing is to be told."""
        return self.set_aside(cell, self.bad[cell]) if self.read(cell) is None and cell in self.bad else ""

    # -- what is known of the data sets ----------------------------------------------------------------------------------

    def known_fingerprint(self, signature: str) -> str | None:
        """The content fingerprint of files with this signature (paths, sizes, times), if they were read before."""
        return self._signatures().get(signature)

    def remember_fingerprint(self, signature: str, fingerprint: str) -> None:
        """Keep it, so that the next start need not read the files to know."""
        known = self._signatures() | {signature: fingerprint}
        write_text(self.root / "fingerprints.json", json.dumps(known, indent=1))

    def _signatures(self) -> dict[str, str]:
        try:
            known: Any = json.loads((self.root / "fingerprints.json").read_text())
            return known if isinstance(known, dict) else {}
        except (OSError, ValueError):
            return {}
