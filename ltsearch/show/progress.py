"""Progress: on a terminal one live table, otherwise one line per event."""

from __future__ import annotations

import sys
import time
from itertools import islice
from typing import Any, Self

from ltsearch.run.jobs import Job, Outcome
from ltsearch.store.records import CLASS_MEAN, TEST, VAL, Epoch, Status, headline

REFRESH_SECONDS = 0.5
LINE_SECONDS = 60.0  # without a terminal, a trial that goes on says so no more often
_FRAME = 6  # lines of the table's frame and head, and of what stands below it
_METRICS = (headline("ensemble"), "val/ensemble_class_mean", "val/single_class_mean", "train/top1", "train/loss")


class Progress:
    """A ``Listener`` that shows what it hears on standard output."""

    def __init__(self, sweep: str, total: int, done: int, *, terminal: bool | None = None) -> None:
        """``total`` cells are planned, ``done`` of them finished before."""
        self.sweep, self.total, self.done = sweep, total, done
        self.begun = time.monotonic()
        self.finished_here = 0
        self.counts: dict[str, int] = {}
        self.running: dict[str, tuple[Job, Epoch | None]] = {}
        self.best: dict[str, tuple[float, str]] = {}  # by metric: validation and test accuracy do not compare
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._live: Any = None
        self._drawn = 0.0
        self._told: dict[str, float] = {}  # by cell, when a line last spoke of it

    def __enter__(self) -> Self:
        """Show the table, on a terminal."""
        if self.terminal:
            from rich.live import Live

            self._live = Live(self._table(), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line above the table, or just a line."""
        if self._live is not None:
            self._live.console.print(text, markup=False, highlight=False)
        else:
            print(text, flush=True)

    def planned(self, cells: int) -> None:
        """Adaptive seeds."""
        self.total += cells

    def started(self, job: Job) -> None:
        """A job begins or goes on."""
        self.running[job.cell.id] = (job, None)
        self._draw(force=True)
        if not self.terminal:
            self.say(f"[{self._clock()}] start  {job.label}  ({job.cell.id})")
            self._told[job.cell.id] = time.monotonic()

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None:
        """An epoch is over."""
        self.running[job.cell.id] = (job, epoch)
        self._draw()
        now = time.monotonic()
        if not self.terminal and now - self._told.get(job.cell.id, now) > LINE_SECONDS and epoch.epoch < job.epochs:
            self._told[job.cell.id] = now
            value = _value(epoch)
            shown = f"  {value[0]} {value[1]:.4f}" if value else ""
            self.say(f"[{self._clock()}] epoch {epoch.epoch}/{job.epochs}  {job.label}{shown}")

    def retried(self, job: Job, error: str) -> None:
        """A failed job goes on."""
        self.say(f"[{self._clock()}] retry  {job.label}  (attempt {job.retries + 1}: {error})")

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A job is over."""
        _, epoch = self.running.pop(job.cell.id, (job, None))
        self._told.pop(job.cell.id, None)
        self.counts[str(outcome.status)] = self.counts.get(str(outcome.status), 0) + 1
        self.done += 1
        self.finished_here += 1
        value = _value(epoch)
        if value is not None and outcome.status is Status.FINISHED and value[0].endswith(("top1", CLASS_MEAN)):
            self.best[value[0]] = max(self.best.get(value[0], (value[1], job.label)), (value[1], job.label))
        shown = f"{value[0]} {value[1]:.4f}" if value else ""
        why = f"  {outcome.error}" if outcome.error else ""
        self._draw(force=True)
        if not self.terminal or outcome.status not in (Status.FINISHED, Status.PRUNED):
            self.say(
                f"[{self._clock()}] {outcome.status}  {job.label}  {shown}{why}  "
                f"({self.done}/{self.total}, {self._remaining()} left)"
            )

    def settled(self, job: Job, outcome: Outcome) -> None:
        """A job's cell was there already, or has come from another sweep."""
        self.done += 1
        self._draw(force=True)
        if not self.terminal:
            self.say(
                f"[{self._clock()}] {outcome.status}  {job.label}  (trained elsewhere)  ({self.done}/{self.total})"
            )

    # -- drawing -------------------------------------------------------------------------------------------------------------

    def _draw(self, force: bool = False) -> None:
        if self._live is not None and (force or time.monotonic() - self._drawn > REFRESH_SECONDS):
            self._drawn = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{n} {status}" for status, n in self.counts.items())
        lines = [f"{self.sweep} · {self.done}/{self.total} done{f' ({counts})' if counts else ''}"]
        lines += [f"best {name} {value:.4f} ({label})" for name, (value, label) in self.best.items()]
        table = Table()
        for column in ("running", "epoch", "metric"):
            table.add_column(column, no_wrap=True)
        room = max(self._live.console.height - len(lines) - _FRAME, 1) if self._live is not None else len(self.running)
        for job, epoch in islice(self.running.values(), room):
            value = _value(epoch)
            table.add_row(
                job.label,
                f"{epoch.epoch if epoch else 0}/{job.epochs}",
                f"{value[0]} {value[1]:.4f}" if value else "",
            )
        hidden = len(self.running) - room
        more = f"and {hidden} more running; " if hidden > 0 else ""
        return Group(Text("\n".join(lines)), table, Text(more + f"{self._clock()} elapsed, {self._remaining()} left"))

    def _clock(self) -> str:
        return clock(time.monotonic() - self.begun)

    def _remaining(self) -> str:
        left = max(self.total - self.done, 0)
        if left == 0:
            return "nothing"
        if self.finished_here == 0:
            return "?"
        return clock((time.monotonic() - self.begun) / self.finished_here * left)


def clock(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _value(epoch: Epoch | None) -> tuple[str, float] | None:
    if epoch is None:
        return None
    evaluated = (name for name in epoch.metrics if name.startswith((TEST, VAL)))  # of a trainable of the user's own
    for name in (*_METRICS[:-2], *evaluated, *_METRICS[-2:]):
        if name in epoch.metrics:
            return name, epoch.metrics[name]
    return None
