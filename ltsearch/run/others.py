"""What other drivers train: other sweeps that share cells, and machines that help with this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ltsearch.plan.cells import first
from ltsearch.run.jobs import Job
from ltsearch.store.claims import Claims
from ltsearch.store.locks import current_mark
from ltsearch.store.retries import patiently
from trainables.files import Location

LOOK_SECONDS = 2.0  # between two looks at them


class Others:
    """Of one queue. A cell is changed by nobody who has not claimed it."""

    def __init__(self, claims: Claims | None, folder: Location, *, helps: bool) -> None:
        """``folder`` is the sweep's; ``helps``: another driver has the sweep, and this one helps."""
        self.claims, self.folder, self.helps = claims, folder, helps
        self.elsewhere: set[str] = set()  # cells in line that another driver trains
        self.left: set[str] = set()  # and those that a helper leaves to the sweep itself
        self._looked = self._looked_for_helpers = -LOOK_SECONDS
        self._helped = False

    def claim(self, cell: str) -> str | None:
        """Who else is training a cell, which is remembered; None if it is ours now."""
        claims = self.claims
        other = patiently(lambda: claims.take(cell)) if claims is not None else None
        if other is not None:
            self.elsewhere.add(cell)
        return other

    def release(self, cell: str) -> None:
        """Let a cell go."""
        if self.claims is not None:
            with suppress(OSError):  # it counts for nothing once this driver is gone
                self.claims.release(cell)

    def forget(self, cell: str) -> None:
        """It is not in line any more."""
        self.release(cell)
        self.elsewhere.discard(cell)
        self.left.discard(cell)

    def free(self, settled: Callable[[str], bool]) -> list[str]:
        """Cells that others have finished, or left, since this was last asked."""
        waited = self.elsewhere | self.left
        if not waited or self.claims is None or time.monotonic() - self._looked < LOOK_SECONDS:
            return []
        self._looked = time.monotonic()
        found = []
        for cell in waited:
            with suppress(OSError):  # a storage that does not answer: looked at again
                if settled(cell) or (cell not in self.left and self.claims.other(cell) is None):
                    found.append(cell)
        self.elsewhere.difference_update(found)
        self.left.difference_update(found)
        return found

    @property
    def pull(self) -> bool:
        """Do other machines pull cells of this sweep? Then none is claimed before there is room for it."""
        if isinstance(self.folder, Path) and time.monotonic() - self._looked_for_helpers >= LOOK_SECONDS:
            self._looked_for_helpers = time.monotonic()
            helpers = self.folder.parent.glob(f"{self.folder.name}+*")
            with suppress(OSError):  # one leaves just now
                self._helped = any(current_mark(folder) is not None for folder in helpers)
        return self.helps or self._helped

    def have_all(self, jobs: Sequence[Job]) -> bool:
        """Is each of them, or what it requires, left to others?"""
        return all(
            job.cell.id in self.elsewhere or any(one.id in self.left for one in (*first(job.cell), job.cell))
            for job in jobs
        )
