"""Optuna's journal: a file in a folder, or numbered objects in an object store."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._file import get_lock_file

from ltsearch.patience import patiently
from trainables.files import Location, RemotePath

FILE = "optuna.journal"
FOLDER = "journal"  # in an object store
MERGE_AFTER = 300  # objects


def journal(folder: Location) -> BaseJournalBackend:
    """The journal of the sweep whose folder this is."""
    if isinstance(folder, RemotePath):
        return ObjectJournal(folder / FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    return FileJournal(folder / FILE)


def exists(folder: Location) -> bool:
    """Has a search begun there?"""
    return bool((folder / FOLDER).names()) if isinstance(folder, RemotePath) else (folder / FILE).exists()


def forget(folder: Location) -> None:
    """Remove it."""
    if isinstance(folder, RemotePath):
        for name in reversed((folder / FOLDER).names()):  # the last first: what is left is a journal
            (folder / FOLDER / name).unlink(missing_ok=True)
    else:
        (folder / FILE).unlink(missing_ok=True)


class FileJournal(JournalFileBackend):
    """Optuna's file, which a disk that is full, or a machine that loses power, cannot make unreadable."""

    def __init__(self, path: Path) -> None:
        """Drop the last line if it was written by half: Optuna would refuse the whole file."""
        self._where = path
        lock = JournalFileSymlinkLock(str(path))
        super().__init__(str(path), lock_obj=lock)
        with get_lock_file(lock), open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add some; raises ``StorageError``, and has then added none, if the disk takes nothing for long."""
        patiently(lambda: self._append(logs))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = self._where.stat().st_size
        try:
            super().append_logs(logs)
        except OSError:
            os.truncate(self._where, size)
            raise


class ObjectJournal(BaseJournalBackend):
    """Each append is an object, named by the number of its first log; now and then they are merged into the first.

    For one writer at a time, which the sweep's lock sees to. A kill while they are merged leaves objects whose logs are in the
    first one already: they are passed over.
    """

    def __init__(self, folder: RemotePath) -> None:
        """Read what there is."""
        self.folder = folder
        self.logs: list[dict[str, Any]] = []
        names = folder.names()
        with ThreadPoolExecutor(16) as pool:
            for name, text in zip(names, pool.map(self._read, names), strict=True):
                logs = [json.loads(line) for line in text.splitlines() if line]
                begins = int(name.partition(".")[0])
                if begins > len(self.logs):
                    raise OSError(f"{folder}: logs {len(self.logs)} to {begins} are missing")
                self.logs += logs[len(self.logs) - begins :]
        self.objects = len(names)

    def _read(self, name: str) -> str:
        return (self.folder / name).read_text()

    @staticmethod
    def _name(number: int) -> str:
        return f"{number:010d}.jsonl"

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Logs from a number on."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add some."""
        patiently(lambda: (self.folder / self._name(len(self.logs))).write(_lines(logs)))
        self.logs += logs
        self.objects += 1
        if self.objects > MERGE_AFTER:
            with suppress(OSError):  # with the next one, then
                self._merge()

    def _merge(self) -> None:
        (self.folder / self._name(0)).write(_lines(self.logs))
        names = [name for name in self.folder.names() if name != self._name(0)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda name: (self.folder / name).unlink(missing_ok=True), names))
        self.objects = 1


def _lines(logs: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(log) + "\n" for log in logs).encode()
