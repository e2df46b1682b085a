"""What Tune is given to run and what it tells us: the contract between ``queue`` (what) and ``runner`` (where)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from ltsearch.plan.layout import Cell
from ltsearch.store.records import Epoch, Status


@dataclass
class Job:
    """One cell that is to be run, and what is known of it while it runs."""

    cell: Cell
    stage: str  # ablation, required, search, confirm
    label: str  # how it is shown: the row's name, or the search trial's number
    trial_number: int | None = None  # of the Optuna trial
    epochs_seen: list[Epoch] = field(default_factory=list)
    retries: int = 0
    started: float = 0.0  # seconds since 1970, of its first start if it goes on

    @property
    def epochs(self) -> int:
        """How many it will train for."""
        return self.cell.config.loop.epochs


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: Status
    error: str | None = None


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
