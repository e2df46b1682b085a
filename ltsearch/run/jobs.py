"""What Tune is given to run and what it tells us: the contract between ``queue`` (what) and ``runner`` (where)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from ltsearch.plan.cells import Cell
from ltsearch.store.ids import recipes
from ltsearch.store.records import CellRecord, Epoch, Status


class State(StrEnum):
    """Where a job of the queue stands."""

    WAITING = "waiting"  # in line
    BLOCKED = "blocked"  # until another job is over
    RUNNING = "running"  # a trial has it
    OVER = "over"


# Every change of a job's state, and when it happens. docs/architecture.md has this table; the queue makes no other.
TRANSITIONS: dict[tuple[State | None, State], str] = {
    (None, State.WAITING): "planned, proposed by the search, a confirmation, or required by another job",
    (State.WAITING, State.RUNNING): "handed out: nothing that it requires is missing",
    (
        State.WAITING,
        State.BLOCKED,
    ): "what it requires is not finished, which is put first, or its own cell is running, here or in another sweep",
    (
        State.WAITING,
        State.OVER,
    ): "its cell is settled already, the search stops it on what it knows, what it requires cannot finish, its row is left out",
    (State.BLOCKED, State.WAITING): "what it waited for is over",
    (State.BLOCKED, State.OVER): "its row is left out",
    (State.RUNNING, State.WAITING): "its process died before it had begun, or its node was lost or could not set it up",
    (State.RUNNING, State.OVER): "finished, stopped early, or failed for good",
}


@dataclass(eq=False)
class Job:
    """One cell that is to be run, and what is known of it while it runs."""

    cell: Cell
    stage: str  # ablation, required, search, confirm
    label: str  # how it is shown: the row's name, or the search trial's number
    trial_number: int | None = None  # of the Optuna trial
    epochs_seen: dict[int, Epoch] = field(default_factory=dict)  # by number; forgotten when it is over
    retries: int = 0  # of failures that were its own
    not_its_fault: int = 0  # failures of nodes
    unfit_nodes: set[str] = field(default_factory=set)  # on which it failed before it had begun
    started: float = 0.0  # seconds since 1970, of its first start if it goes on
    goes_on: bool = False  # was it begun before: by an earlier driver, or by another sweep?
    state: State | None = None

    def to(self, state: State) -> None:
        """Change its state; raises ``ValueError`` for a change that is not in the table."""
        if (self.state, state) not in TRANSITIONS:
            raise ValueError(f"{self.label}: from {self.state} to {state}")
        self.state = state

    @property
    def epochs(self) -> int:
        """How many it will train for."""
        return self.cell.config.loop.epochs


def bare_record(job: Job) -> CellRecord:
    """Of a job whose actor has written none."""
    config = job.cell.config
    return CellRecord(
        cell=job.cell.id,
        config=config.model_dump(mode="json"),
        recipes=recipes(config),
        status=Status.RUNNING,
        started=job.started,
    )


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    error: str | None = None


@dataclass(frozen=True)
class Ended:
    """The line that is kept of a job that is over."""

    cell: str
    stage: str
    label: str
    outcome: Outcome


class Listener(Protocol):
    """What wants to know: tracking and progress."""

    def planned(self, cells: int) -> None:
        """So many cells more are to be run than were counted before."""

    def started(self, job: Job) -> None:
        """A job begins or goes on."""

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None:
        """An epoch is over."""

    def retried(self, job: Job, error: str) -> None:
        """A failed job goes on from its checkpoint."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is over; its record is in the store."""

    def settled(self, job: Job, outcome: Outcome) -> None:
        """A job is over without having been run: its cell's record is there, from a row or another sweep."""
