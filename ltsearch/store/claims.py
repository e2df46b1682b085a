"""Which driver trains which cell: two sweeps that share one, of one user or of several, train it once.

A claim lies beside the cell's record and names the sweep's lock, of this very run of the command (``mark``). It counts as
long as that lock is held, and is taken over when its holder is gone, however it went.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ltsearch.store import conditional
from ltsearch.store.cells import CLAIM, CellStore
from ltsearch.store.locks import DEAD_SECONDS, RECENT_SECONDS, RemoteLock, SweepLock, held_mark, touched
from trainables.files import Location, RemotePath


class Claims:
    """Of one driver. Methods raise ``OSError`` if the storage does not answer."""

    def __init__(self, store: CellStore, lock: SweepLock | RemoteLock | None) -> None:
        """``lock`` is held as long as the claims are to count; None for who only looks at those of others."""
        self.store = store
        sweep, mark = (lock.sweep, lock.mark) if lock is not None else ("", "")
        self.mine = {"sweep": sweep, "mark": mark, "pid": os.getpid(), "host": socket.gethostname()}
        self.held: set[str] = set()
        self._beats: dict[
            str, tuple[object, float]
        ] = {}  # by mark: an object store's lock as it was seen, and since when

    def take(self, cell: str) -> str | None:
        """Claim a cell; returns who has it already, None if it is ours now.

        In a folder the kernel sees to it that one of two gets it, where its locks reach, and on S3 the store (``conditional``).
        In other object stores two drivers that claim a cell within the same milliseconds may both train it; the first to finish
        is believed.
        """
        path = self.store.folder(cell) / CLAIM
        if isinstance(path, RemotePath):
            if (other := self._other(_parsed(before := _bytes(path)))) is not None:
                return other
            claim = json.dumps(self.mine).encode()
            if (written := conditional.replace(path, claim, before)) is None:
                path.write(claim)
            now = _read(path)
            if (other := self._other(now)) is not None:
                return other
            if written is False and (now is None or now["mark"] != self.mine["mark"]):  # it was let go meanwhile
                return "another sweep"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a+", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                if (other := self._other(_parsed(file.read()))) is not None:
                    return other
                file.truncate(0)
                file.write(json.dumps(self.mine))
                file.flush()
                os.fsync(file.fileno())
            if (
                other := self._other(_read(path))
            ) is not None:  # where the lock does not reach: the last to write has it
                return other
        self.held.add(cell)
        return None

    def other(self, cell: str) -> str | None:
        """Who else has a cell; None if nobody does."""
        return self._other(_read(self.store.folder(cell) / CLAIM))

    def release(self, cell: str) -> None:
        """Let a cell go."""
        if cell in self.held:
            self.held.discard(cell)
            path = self.store.folder(cell) / CLAIM
            claim = _read(path)
            if claim is not None and claim["mark"] == self.mine["mark"]:  # nobody has taken over meanwhile
                path.unlink(missing_ok=True)

    def release_all(self) -> None:
        """The driver ends; what stays because the storage does not answer counts for nothing."""
        with suppress(OSError):
            for cell in list(self.held):
                self.release(cell)

    def _other(self, claim: dict[str, Any] | None) -> str | None:
        if claim is None or claim["mark"] == self.mine["mark"] or not self._alive(claim):
            return None
        return f"sweep {claim['sweep']} (process {claim['pid']} on {claim['host']})"

    def _alive(self, claim: dict[str, Any]) -> bool:
        folder = self.store.sweep_folder(claim["sweep"])
        if isinstance(folder, Path):
            if (mark := held_mark(folder)) is not None or claim["host"] == socket.gethostname():
                return bool(mark == claim["mark"])
            # Some network file systems keep locks to the host that took them: then it is alive if it is renewed.
            renewed = touched(folder, str(claim["mark"]))
            old = renewed is None or time.time() - renewed / 1e9 > DEAD_SECONDS + RECENT_SECONDS
            return not old and self._is_renewed(claim["mark"], renewed)
        held = RemoteLock(folder, print).read()
        if held is None or held["mark"] != claim["mark"] or RemoteLock.dead_here(held):
            return False
        return self._is_renewed(claim["mark"], held["beat"])

    def _is_renewed(self, mark: str, beat: object) -> bool:
        """Clocks of two machines differ, so a lock is watched: it is alive if it is renewed."""
        seen, since = self._beats.get(mark, (None, 0.0))
        if beat != seen:
            self._beats[mark] = (beat, time.monotonic())
            return True
        return time.monotonic() - since < DEAD_SECONDS


def _read(path: Location) -> dict[str, Any] | None:
    return _parsed(_bytes(path))


def _bytes(path: Location) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parsed(content: str | bytes | None) -> dict[str, Any] | None:
    """A claim; None for what is none, such as one that was being written when its holder was killed."""
    try:
        claim = json.loads(content or "")
    except ValueError:  # bytes that are no text, too
        return None
    whole = isinstance(claim, dict) and {"sweep", "mark", "pid", "host"} <= claim.keys()
    return claim if whole and isinstance(claim["sweep"], str) and "/" not in claim["sweep"] else None
