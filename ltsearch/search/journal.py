"""Optuna's journal: a file in a folder, or numbered objects in an object store."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from ltsearch.search.optuna_internals import LOCK_FILE_SUFFIX, REPORT, BaseJournalFileLock, get_lock_file
from ltsearch.store.permissions import DENIED, denied
from ltsearch.store.retries import patiently
from trainables.errors import UserError
from trainables.files import Location, RemotePath, shown

FILE = "optuna.journal"
FOLDER = "journal"  # in an object store
MERGE_AFTER = 300  # small objects; and what has as many logs is no small one


def journal(folder: Location) -> BaseJournalBackend:
    """The journal of the sweep whose folder this is."""
    if isinstance(folder, RemotePath):
        return ObjectJournal(folder / FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / FILE).exists() and not (folder / FILE).is_file():
        raise damaged(folder / FILE, "not a file")
    return FileJournal(folder / FILE)


def where(folder: Location) -> Location:
    """Its file, or the folder of its objects."""
    return folder / (FOLDER if isinstance(folder, RemotePath) else FILE)


def exists(folder: Location) -> bool:
    """Has a search begun there?"""
    return bool((folder / FOLDER).names()) if isinstance(folder, RemotePath) else (folder / FILE).exists()


def forget(folder: Location) -> None:
    """Remove it, whatever is in it."""
    if isinstance(folder, RemotePath):
        for name in reversed((folder / FOLDER).names()):  # the last first: what is left is a journal
            (folder / FOLDER / name).unlink(missing_ok=True)
    else:
        (folder / FILE).unlink(missing_ok=True)
        (folder / f"{FILE}{LOCK_FILE_SUFFIX}").unlink(missing_ok=True)  # what Optuna's own lock may have left


def attributes(folder: Location, name: str) -> list[str]:
    """What trials were given under the name of an attribute, from the lines that can be read: of a journal that is damaged."""
    if isinstance(folder, RemotePath):
        texts = [(folder / FOLDER / name).read_bytes() for name in (folder / FOLDER).names()]
    else:
        texts = [(folder / FILE).read_bytes()] if (folder / FILE).is_file() else []
    found = []
    for line in b"\n".join(texts).splitlines():
        with suppress(ValueError):
            given = _log(line).get("user_attr")
            if isinstance(given, dict) and isinstance(given.get(name), str):
                found.append(given[name])
    return list(dict.fromkeys(found))


def damaged(where: object, why: str) -> UserError:
    """A journal that cannot be gone on with."""
    return UserError(
        f"{shown(where)}: {why}: the search cannot go on with it; --fresh begins this study again, and moving the file away "
        "begins the search again and keeps the cells of the ablation (trials that it proposes again are not trained twice)"
    )


def _log(line: bytes | str) -> dict[str, Any]:
    """One of Optuna's logs; raises ``ValueError`` with what it is instead."""
    try:
        log = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(log, dict):
        raise ValueError("not one of Optuna's logs")
    return log


class _KernelLock(BaseJournalFileLock):
    """Of the journal itself, dropped by the kernel when its holder dies.

    Optuna's own is a symbolic link that a kill leaves behind: it is waited for, and for ever if what it points to has moved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def acquire(self) -> bool:
        file = open(self._path, "rb+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def release(self) -> None:
        self._file.close()


class FileJournal(JournalFileBackend):
    """Optuna's file, which a disk that is full, or a machine that loses power, cannot make unreadable."""

    def __init__(self, path: Path) -> None:
        """Drop the last line if it was written by half: Optuna would refuse the whole file.

        Raises ``UserError`` for other lines that are none of Optuna's, and if the file may not be written to.
        """
        self._where = path
        lock = _KernelLock(path)
        try:
            super().__init__(str(path), lock_obj=lock)
            with get_lock_file(lock), open(path, "rb+") as file:
                content = file.read()
                whole = content.rfind(b"\n") + 1
                if whole < len(content):
                    file.truncate(whole)
        except OSError as error:
            if error.errno in DENIED:
                raise denied(error, path) from None
            raise
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                _log(line)
            except ValueError as error:
                raise damaged(f"{path}, line {number}", str(error)) from None

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
    """Objects of some logs each, named by the number of the first; now and then the last, small ones become a large one.

    For one writer at a time, which the sweep's lock sees to. The values of epochs wait for the next log of another kind (a
    proposal, a rung, an end): an epoch costs no request, and what a kill takes of them the cells' records tell again. A kill
    while objects are merged leaves some whose logs are in the large one already: they are passed over.
    """

    def __init__(self, folder: RemotePath) -> None:
        """Read what there is."""
        self.folder = folder
        self.logs: list[dict[str, Any]] = []
        self._small: list[str] = []  # names of the objects after the last large one
        names = folder.names()
        with ThreadPoolExecutor(16) as pool:
            for name, text in zip(names, pool.map(self._read, names), strict=True):
                try:
                    logs = [_log(line) for line in text.splitlines() if line]
                    begins = int(name.partition(".")[0])
                except ValueError as error:
                    raise damaged(folder / name, str(error)) from None
                if begins > len(self.logs):
                    raise damaged(folder, f"logs {len(self.logs)} to {begins} are missing")
                self.logs += logs[len(self.logs) - begins :]
                self._small = [] if len(logs) >= MERGE_AFTER else [*self._small, name]
        self.stored = len(self.logs)  # how many of them are in the store

    def _read(self, name: str) -> str:
        return (self.folder / name).read_bytes().decode(errors="replace")

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Logs from a number on."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add some."""
        waiting = [*self.logs[self.stored :], *logs]
        if any(log.get("op_code") != REPORT for log in logs):
            name = f"{self.stored:010d}.jsonl"
            patiently(lambda: (self.folder / name).write(_lines(waiting)))
            self.stored += len(waiting)
            self._small.append(name)
        self.logs += logs
        if len(self._small) > MERGE_AFTER:
            with suppress(OSError):  # with the next one, then
                self._merge()

    def _merge(self) -> None:
        """The small objects become one, in the place of the first of them."""
        name, *others = self._small
        (self.folder / name).write(_lines(self.logs[int(name.partition(".")[0]) : self.stored]))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda other: (self.folder / other).unlink(missing_ok=True), others))
        self._small = []


def _lines(logs: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(log) + "\n" for log in logs).encode()
