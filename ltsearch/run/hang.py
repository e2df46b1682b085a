"""A process that hangs is ended, with word of what it was doing, and its trial goes on from its checkpoint elsewhere.

By ``faulthandler``, whose clock runs outside of the interpreter: a library that waits for ever and holds the interpreter's lock
is ended as well.
"""

from __future__ import annotations

import faulthandler
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from ltsearch.store.cells import HUNG
from trainables.files import Location

STACK = ".hung.tmp"  # in the cell's folder: what is written when it happens, and kept as ``HUNG``
LONGER = 10  # times its longest epoch; before its first one, times the seconds that are set


class Watchdog:
    """Of one trial in one process."""

    def __init__(self, seconds: float | None, folder: Location | None) -> None:
        """An epoch may take ``seconds``, or ``LONGER`` times the longest one so far; None: for ever."""
        self.seconds, self.longest = seconds, 0.0
        self._file: TextIO | None = None
        if seconds is not None and isinstance(folder, Path):  # of an object store's trial, it goes to the process's log
            with suppress(OSError):
                self._file = open(folder / STACK, "w")

    def limit(self) -> float | None:
        """Seconds that the next epoch may take."""
        if self.seconds is None:
            return None
        return max(self.seconds, LONGER * self.longest) if self.longest else LONGER * self.seconds

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """While one is trained; the process ends if it takes too long."""
        if (limit := self.limit()) is None:
            yield
            return
        given: dict[str, Any] = {"file": self._file} if self._file is not None else {}
        begun = time.monotonic()
        faulthandler.dump_traceback_later(limit, exit=True, **given)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.longest = max(self.longest, time.monotonic() - begun)

    def close(self) -> None:
        """The trial is over in this process."""
        if self._file is not None:
            self._file.close()
            with suppress(OSError):
                Path(self._file.name).unlink()
            self._file = None


def forget(folder: Location) -> None:
    """What a process of an earlier driver has left: it is not to be told of the next one."""
    if isinstance(folder, Path):
        with suppress(OSError):
            (folder / STACK).unlink(missing_ok=True)


def told(folder: Location) -> str | None:
    """Why a trial's process ended itself, if it did; what it wrote is kept as ``hung.txt``."""
    if not isinstance(folder, Path):
        return None
    try:
        text = (folder / STACK).read_text(errors="replace")
        found = re.match(r"Timeout \(([\d:]+)", text)
        if found is None:
            return None
        (folder / STACK).rename(folder / HUNG)
    except OSError:
        return None
    frames = re.findall(r'File "(.*)", line (\d+) in (.*)', text)
    ours = next((frame for frame in frames if re.search(r"/trainables/", frame[0])), frames[0] if frames else None)
    where = f"; it was in {ours[2]} ({Path(ours[0]).name}, line {ours[1]})" if ours else ""
    return f"it hung: no epoch for {found[1]} (h:mm:ss), and its process was ended{where}; all of it in {folder / HUNG}"
