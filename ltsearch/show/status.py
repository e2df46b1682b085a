"""How a sweep stands, as ``ltsearch status`` shows it from another shell; and what the driver writes for it.

The driver keeps ``<storage>/sweeps/<sweep>/status.json`` up to date while it runs. Nothing here needs Ray or MLflow.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ltsearch.run.jobs import Job, Outcome
from ltsearch.show.progress import clock
from ltsearch.store.records import CLASS_MEAN, Epoch, Status
from trainables.files import Location, write_text

FILE = "status.json"
WRITE_SECONDS = 2.0  # between two writes, unless a trial starts or ends
SOON_SECONDS = 0.2  # between two writes, whatever happens
STALE_SECONDS = 60.0


class RunningTrial(BaseModel):
    """A trial that is at work."""

    label: str
    cell: str
    epoch: int
    epochs: int
    metrics: dict[str, float] = {}
    retries: int = 0


class SweepStatus(BaseModel):
    """``status.json``. Times are seconds since 1970."""

    sweep: str
    host: str
    pid: int
    began: float
    updated: float
    ended: bool = False
    total: int
    done: int
    counts: dict[str, int] = {}  # trials that ended in this run of the command, by end state
    retries: int = 0
    failures: list[str] = []
    nodes: list[dict[str, float]] = []  # CPUs and GPUs of each
    running: list[RunningTrial] = []
    seconds_left: float | None = None


class StatusFile:
    """A ``Listener`` that keeps the file up to date."""

    def __init__(self, folder: Location, sweep: str, total: int, done: int) -> None:
        """``folder`` is the sweep's; nothing is written yet."""
        self.path = folder / FILE
        self.began_with = done
        now = time.time()
        self.status = SweepStatus(
            sweep=sweep, host=socket.gethostname(), pid=os.getpid(), began=now, updated=now, total=total, done=done
        )
        self.trials: dict[str, RunningTrial] = {}
        self._written = 0.0
        self._lock = threading.Lock()
        self._over, self._changed, self._urgent = threading.Event(), threading.Event(), threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="status")

    def _beat(self) -> None:
        """Writing takes as long as the storage does, and longer with many trials: the sweep's loop does not wait for it."""
        while not self._over.wait(SOON_SECONDS):
            if self._changed.wait(STALE_SECONDS / 3):  # an epoch may be longer than it takes to be thought dead
                self._urgent.wait(max(0.0, self._written + WRITE_SECONDS - time.time()))
            self._urgent.clear()
            self._changed.clear()
            self._write()

    def nodes(self, nodes: Sequence[Mapping[str, float]]) -> None:
        """What it runs on, now."""
        self.status.nodes = [{kind: node.get(kind, 0.0) for kind in ("CPU", "GPU")} for node in nodes]
        self._write()
        if not self._beating.is_alive():
            self._beating.start()

    def end(self) -> None:
        """The driver goes."""
        self._over.set()
        self._urgent.set()
        self._changed.set()
        if self._beating.is_alive():  # what it writes now must not come after the end
            self._beating.join()
        self.status.ended = True
        self.trials.clear()
        self._write()

    # -- Listener ----------------------------------------------------------------------------------------------------------

    def planned(self, cells: int) -> None:
        """Adaptive seeds."""
        self.status.total += cells

    def started(self, job: Job) -> None:
        """A job begins or goes on."""
        self.trials[job.cell.id] = RunningTrial(
            label=job.label, cell=job.cell.id, epoch=0, epochs=job.epochs, retries=job.retries
        )
        self._tell(at_once=True)

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None:
        """An epoch is over."""
        trial = self.trials.get(job.cell.id)
        if trial is not None:
            trial.epoch = epoch.epoch
            trial.metrics = {
                k: v for k, v in epoch.metrics.items() if k.endswith(("top1", CLASS_MEAN, "images_per_second", "loss"))
            }
        self._tell()

    def retried(self, job: Job, error: str) -> None:
        """A failed job goes on."""
        self.status.retries += 1
        self._tell(at_once=True)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is over."""
        self.trials.pop(job.cell.id, None)
        status = self.status
        status.counts[str(outcome.status)] = status.counts.get(str(outcome.status), 0) + 1
        status.done += 1
        if outcome.status not in (Status.FINISHED, Status.PRUNED):
            status.failures.append(f"{outcome.status}: {job.label} ({job.cell.id}): {outcome.error or ''}")
        self._tell(at_once=True)

    def settled(self, job: Job, outcome: Outcome) -> None:
        """A job's cell was there already, or has come from another sweep."""
        self.status.done += 1
        self.began_with += 1  # it took no time here
        self._tell()

    def _tell(self, *, at_once: bool = False) -> None:
        if self._beating.is_alive():
            if at_once:
                self._urgent.set()
            self._changed.set()
        elif at_once or time.time() - self._written >= WRITE_SECONDS:
            self._write()

    def _write(self) -> None:
        with self._lock:
            self._written = now = time.time()
            here = self.status.done - self.began_with
            left = max(self.status.total - self.status.done, 0)
            self.status.seconds_left = (now - self.status.began) / here * left if here else None
            self.status.updated, self.status.running = now, list(self.trials.values())
            try:
                write_text(self.path, self.status.model_dump_json(indent=1))
            except OSError:  # a full disk must not end a sweep for want of a status
                pass


# -- what is read -------------------------------------------------------------------------------------------------------


def read(folder: Location) -> SweepStatus | None:
    """What the last driver of a sweep wrote; None if there is nothing that can be read."""
    try:
        return SweepStatus.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def alive(status: SweepStatus) -> bool:
    """Is its driver at work? On another host only the age of the file can tell."""
    if status.ended:
        return False
    if status.host != socket.gethostname():
        return time.time() - status.updated < STALE_SECONDS
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def render(status: SweepStatus) -> str:
    """Some lines of text."""
    where = f"process {status.pid} on {status.host}"
    if alive(status):
        head = f"running ({where}), {clock(time.time() - status.began)} so far"
    elif status.ended:
        head = f"not running; the last run ended {clock(time.time() - status.updated)} ago"
    else:
        head = f"not running: {where} is gone without a word; the same command goes on where it was"
    lines = [f"{status.sweep}: {head}", f"{status.done} of {status.total} cells done" + _counts(status)]
    if status.nodes:
        cpus, gpus = (sum(node.get(kind, 0) for node in status.nodes) for kind in ("CPU", "GPU"))
        lines.append(f"{len(status.nodes)} nodes with {cpus:g} CPUs and {gpus:g} GPUs")
    for trial in status.running if alive(status) else []:
        values = ", ".join(f"{k} {v:.4g}" for k, v in trial.metrics.items())
        again = f", attempt {trial.retries + 1}" if trial.retries else ""
        lines.append(f"  {trial.label} ({trial.cell}): epoch {trial.epoch}/{trial.epochs}{again}  {values}".rstrip())
    lines += [f"  {failure}" for failure in status.failures]
    if alive(status) and status.seconds_left is not None:
        lines.append(f"about {clock(status.seconds_left)} left")
    return "\n".join(lines)


def _counts(status: SweepStatus) -> str:
    parts = [f"{n} {name}" for name, n in status.counts.items()]
    parts += [f"{status.retries} retries"] if status.retries else []
    return f" (this run: {', '.join(parts)})" if parts else ""
