"""What is asked of a sweep while it runs, from another shell: more trials, fewer at once, a row left out.

A file in the sweep's folder, which ``ltsearch change`` writes and the driver looks at now and then. It counts for the run of
the command that it was written to: the study's file stays what the next one follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from pydantic import Field, ValidationError

from ltsearch.run.capacity import Capacity
from ltsearch.run.queue import Queue
from trainables.files import Location, RemotePath, write_text
from trainables.section import Checked

FILE = "wishes.json"
LOOK_SECONDS, LOOK_SECONDS_REMOTE = 3.0, 30.0


class Wishes(Checked):
    """All of them so far."""

    trials: int | None = Field(None, ge=1)
    max_concurrent: int | None = Field(None, ge=1)
    left_out: list[str] = []  # labels of rows

    def __or__(self, later: Wishes) -> Wishes:
        """With those that come later on top."""
        rows = [*self.left_out, *(row for row in later.left_out if row not in self.left_out)]
        return Wishes(
            trials=later.trials or self.trials,
            max_concurrent=later.max_concurrent or self.max_concurrent,
            left_out=rows,
        )


def read(folder: Location) -> Wishes | None:
    """What is asked of the sweep whose folder this is; None if that cannot be read at the moment."""
    try:
        return Wishes.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return Wishes()
    except (OSError, ValidationError):
        return None


def write(folder: Location, wishes: Wishes) -> None:
    """Ask for these, besides what was asked before."""
    write_text(folder / FILE, ((read(folder) or Wishes()) | wishes).model_dump_json(indent=1))


def forget(folder: Location) -> None:
    """What was asked of an earlier run of the command does not count for this one."""
    with suppress(OSError):
        (folder / FILE).unlink(missing_ok=True)


class Listening:
    """The driver's side: grants what is asked, and says so."""

    def __init__(self, folder: Location, queue: Queue, capacity: Capacity | None, say: Callable[[str], None]) -> None:
        """``say`` is told what is done. Without ``capacity``: of a helper, which only leaves rows out."""
        self.folder, self.queue, self.capacity, self.say = folder, queue, capacity, say
        self.granted = Wishes()
        self._every = LOOK_SECONDS_REMOTE if isinstance(folder, RemotePath) else LOOK_SECONDS
        self._looked = 0.0

    def look(self) -> None:
        """Often called, seldom does anything."""
        if time.monotonic() - self._looked < self._every:
            return
        self._looked = time.monotonic()
        if (wishes := read(self.folder)) is None:
            return
        if self.capacity is None:
            wishes = Wishes(left_out=wishes.left_out)
        if wishes.trials is not None and wishes.trials != self.granted.trials:
            self.say(self.queue.change_trials(wishes.trials))
        if self.capacity is not None and wishes.max_concurrent not in (None, self.granted.max_concurrent):
            self.capacity.limit = wishes.max_concurrent
            self.say(f"as asked: {self.capacity()} trials at once")
        for row in wishes.left_out:
            if row not in self.granted.left_out:
                left = self.queue.leave_out(row)
                self.say(f"as asked: row {row!r} is left out ({left} cells that had not begun); what runs is finished")
        self.granted = wishes
