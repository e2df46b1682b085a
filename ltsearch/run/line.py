"""Who waits: for a place, in an order, or for another cell to be over."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence

from ltsearch.run.jobs import Job, State


class Line:
    """The jobs that are not over and do not run. Every change of their states is one of ``jobs.TRANSITIONS``."""

    def __init__(self) -> None:
        """Nobody yet."""
        self._waiting: deque[Job] = deque()
        self._blocked: dict[str, list[Job]] = {}  # by the cell that they wait for
        self._cells: Counter[str] = Counter()  # of those that wait or are blocked
        self.of_search = 0  # search trials that are not over, running ones included
        self.search_blocked = 0  # of them, those that are blocked

    def __contains__(self, cell: str) -> bool:
        return self._cells[cell] > 0

    def __bool__(self) -> bool:
        return bool(self._waiting or self._blocked)

    @property
    def waiting(self) -> int:
        """How many wait for nothing but a place."""
        return len(self._waiting)

    @property
    def blocked(self) -> bool:
        """Does anyone wait for a cell?"""
        return bool(self._blocked)

    def jobs(self) -> list[Job]:
        """All of them."""
        return [*self._waiting, *(job for jobs in self._blocked.values() for job in jobs)]

    def wait(self, jobs: Sequence[Job], *, first: bool = False) -> None:
        """Into line, in this order; ``first``: before all others."""
        for job in jobs:
            if job.state is None and job.stage == "search":
                self.of_search += 1
            job.to(State.WAITING)
            self._cells[job.cell.id] += 1
        if first:
            self._waiting.extendleft(reversed(jobs))
        else:
            self._waiting.extend(jobs)

    def pop(self) -> Job | None:
        """The first that waits for a place; it is not in line any more."""
        if not self._waiting:
            return None
        job = self._waiting.popleft()
        self._cells[job.cell.id] -= 1
        return job

    def block(self, job: Job, cell: str) -> None:
        """A job that was popped waits until a cell is over."""
        job.to(State.BLOCKED)
        self._cells[job.cell.id] += 1
        self.search_blocked += job.stage == "search"
        self._blocked.setdefault(cell, []).append(job)

    def unblock(self, cell: str) -> None:
        """A cell is over: who waited for it looks again, before all others."""
        free = self._blocked.pop(cell, [])
        self.search_blocked -= sum(job.stage == "search" for job in free)
        self._cells.subtract(job.cell.id for job in free)
        self.wait(free, first=True)

    def over(self, job: Job) -> None:
        """A job, popped or running, is over."""
        job.to(State.OVER)
        self.of_search -= job.stage == "search"
        job.epochs_seen = {}
        self.unblock(job.cell.id)

    def drop(self, unwanted: Callable[[Job], bool]) -> list[Job]:
        """Forget jobs, and return them; whoever waits for one of them must be unwanted too."""
        gone = [job for job in self.jobs() if unwanted(job)]
        self._waiting = deque(job for job in self._waiting if not unwanted(job))
        kept = {cell: [job for job in jobs if not unwanted(job)] for cell, jobs in self._blocked.items()}
        self._blocked = {cell: jobs for cell, jobs in kept.items() if jobs}
        for job in gone:
            self._cells[job.cell.id] -= 1
            job.to(State.OVER)
        return gone
