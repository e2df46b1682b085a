"""The three thin classes by which Tune talks to the queue: a searcher, a scheduler and a callback."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from ltsearch.cluster import ray_internals
from ltsearch.run import hang, unfit
from ltsearch.run.capacity import Capacity
from ltsearch.run.jobs import Job, Outcome
from ltsearch.run.placement_groups import Orphans
from ltsearch.run.queue import Queue
from ltsearch.run.unfit import NO_PLACE, Unfit
from ltsearch.store.records import Epoch, Status
from ltsearch.store.retries import StorageError, patiently
from trainables.errors import UserError

OUT_OF_MEMORY = "OutOfMemoryError"
MOST_UNFIT = 3  # nodes on which a trial may fail before it begins; if it does so on more, it is at fault itself
MOST_OF_NODES = 100  # failures of nodes that a trial bears: one that kills its node would never end
# That a place is left to others who take turns with us: longer than Ray takes to look again at what waits for one, a second.
TURN_SECONDS = 3.0
_METRICS, _PER_CLASS = "metrics/", "per_class/"
_RAISED = re.compile(r"\w+(\.\w+)*: ")  # the last line of a traceback
_ENVIRONMENT = re.compile(
    r"runtime env failed to be created.\s+\[Node ([^]]+)\]"
)  # Ray could not unpack the code there


class KilledForMemory(RayActorError):  # type: ignore[misc]
    """Ray ended an actor because its node ran out of memory."""


def died_for_memory(error: Exception) -> KilledForMemory:
    """What Ray's memory monitor says, as an error that Tune knows."""
    return KilledForMemory(error_msg=str(error))


class _NotSaved:
    """Tune pickles what it is given, for a restore that is not used: the store and Optuna's journal are the state."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class Feeder(_NotSaved, Searcher):  # type: ignore[misc]
    """Hands the queue's jobs to Tune, no more at a time than fit."""

    def __init__(
        self,
        queue: Queue,
        capacity: Capacity,
        orphans: Orphans | None = None,
        *,
        spare: bool = True,
        max_failures: int = 0,
        unfit: Unfit | None = None,
    ) -> None:
        """``capacity()`` trials run at once: nodes come and go. ``orphans``: for trials of several workers.

        ``spare``: keep one more at hand. Not for trials of which Tune does not see the resources: it would start that one,
        as it would where something else than room bounds how many there are.
        ``max_failures``: how often a job is tried again. ``unfit``: the nodes that are left alone; none: there is one.
        """
        super().__init__(metric=None, mode=None)
        self.queue, self.capacity, self.orphans, self.spare = queue, capacity, orphans, spare
        self.max_failures = max_failures
        self.each_round: list[Callable[[], None]] = []
        self.controller: Any = None  # Tune's, once it has a trial
        self.unfit = unfit or Unfit(lambda: (), queue.say)
        self.jobs: dict[str, Job] = {}
        self.broken: StorageError | UserError | None = None  # why no more trials are handed out
        self._ended = -math.inf  # when the last trial did

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Tune swallows errors of its callbacks, or wraps them: this remembers the one that ends the sweep."""
        try:
            yield
        except (StorageError, UserError) as error:
            self.broken = error
            raise

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next job as a Tune config; None for later."""
        # With one more at hand, an actor whose trial ends is given the next one instead of being ended. One at a time, the
        # search must see every result before it proposes.
        if self.broken is not None:
            return str(Searcher.FINISHED)
        self.round()
        capacity = self.capacity()
        if self.controller is not None:  # all free places are filled together, and one more waits
            ray_internals.start_at_once(self.controller, capacity + 1)
        spare = self.spare and capacity > 1 and self.capacity.only_room_bounds() and not self.queue.others.pull
        if len(self.queue.running) >= capacity + spare:
            return None
        if self.unfit.everywhere() or self._is_others_turn():  # what runs goes on
            return None
        with self.keeping():
            job = self.queue.next()
        if job is None:
            return Searcher.FINISHED if self.queue.exhausted else None
        self.jobs[trial_id] = job
        hang.forget(self.queue.store.folder(job.cell.id))
        return {
            "cell": job.cell.id,
            "trial": job.cell.config.model_dump_json(),
            "keep_final": job.cell.keep_final,
            "started": job.started,
            "requires": [cell.id for cell in job.cell.requires],
            "avoid": ",".join(self.unfit.now()),
        }

    def end(self, job: Job, outcome: Outcome) -> None:
        """A trial is over."""
        self._ended = time.monotonic()
        self.queue.end(job, outcome)

    def _is_others_turn(self) -> bool:
        """Has a trial just ended, whose place is another sweep's now?"""
        return time.monotonic() - self._ended < TURN_SECONDS and self.capacity.takes_turns()

    def round(self) -> None:
        """What is looked at now and then; called often, also while Tune waits for the next trial."""
        if self.orphans is not None:
            self.orphans.tidy()
        with self.keeping():
            for look in self.each_round:
                look()
        if self.controller is not None and (
            self.queue.only_waits_for_others
            or self._is_others_turn()
            or (self.capacity.others_wait() and ray_internals.actors(self.controller) > self.capacity())
        ):
            # An idle actor would hold a place that another sweep is in need of.
            ray_internals.let_idle_actors_go(self.controller)

    def free_what_waits_for_none(self) -> None:
        """Trials that were to be kept from all nodes that are left, since the last other one has gone meanwhile.

        Raises ``StorageError`` or ``UserError`` if that ends the sweep.
        """
        if self.controller is None or self.unfit.growing:
            return
        kept_away = [trial for trial in ray_internals.waiting(self.controller) if _avoided(trial)]
        left = set(self.unfit.alive()) if kept_away else set()
        for trial in kept_away:
            if left and left <= _avoided(trial):
                ray_internals.fail_waiting(self.controller, trial, RayActorError(error_msg=unfit.GONE, preempted=True))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The scheduler tells the queue."""

    def save(self, checkpoint_path: str) -> None:
        """See ``_NotSaved``."""

    def restore(self, checkpoint_path: str) -> None:
        """See ``_NotSaved``."""


class Stopper(_NotSaved, FIFOScheduler):  # type: ignore[misc]
    """Tells the queue of every epoch and every end, and stops what the queue says."""

    def __init__(self, feeder: Feeder) -> None:
        """Jobs are looked up at the feeder."""
        super().__init__()
        self.feeder = feeder
        self.stopped: set[str] = set()

    def on_trial_add(self, controller: Any, trial: Trial) -> None:
        """Tune has taken a trial in."""
        self.feeder.controller = controller

    def choose_trial_to_run(self, controller: Any) -> Trial | None:
        """Which trial gets an actor that has become free: in their order, but none whose own one is starting."""
        waiting: Trial | None = ray_internals.first_without_place(controller)
        return waiting

    def on_trial_result(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """An epoch that is not the last one: Tune keeps results with ``done`` from schedulers."""
        if self._epoch(trial, result, last=False):
            self.stopped.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Finished, diverged, out of memory, or stopped by the search."""
        job = self.feeder.jobs[trial.trial_id]
        with self.feeder.keeping():
            if trial.trial_id in self.stopped:
                self.feeder.end(job, Outcome(Status.PRUNED))
                return
            status = Status(result["status"])
            if status is Status.FINISHED:
                self._epoch(trial, result, last=True)
            record = patiently(lambda: self.feeder.queue.store.read(job.cell.id))
            self.feeder.end(job, Outcome(status, record.error if record else None))

    def _epoch(self, trial: Trial, result: dict[str, Any], *, last: bool) -> bool:
        metrics = {k.removeprefix(_METRICS): v for k, v in result.items() if k.startswith(_METRICS)}
        per_class = {k.removeprefix(_PER_CLASS): v for k, v in result.items() if k.startswith(_PER_CLASS)}
        job = self.feeder.jobs[trial.trial_id]
        if notice := result.get("notice"):
            self.feeder.queue.say(f"{job.label} ({job.cell.id}): {notice}")
        with self.feeder.keeping():
            return self.feeder.queue.epoch(job, Epoch(epoch=result["epoch"], metrics=metrics), per_class, last)

    def on_trial_error(self, controller: Any, trial: Trial) -> None:
        """Tune calls this before every retry too: the callback below is told of the last failure only."""


class TrialCallback(_NotSaved, Callback):  # type: ignore[misc]
    """Tells the queue when a trial starts, and when a failed one goes on or has failed for good."""

    def __init__(self, feeder: Feeder) -> None:
        """Jobs are looked up at the feeder."""
        self.feeder = feeder

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Every round of Tune's loop."""
        self.feeder.round()
        self.feeder.free_what_waits_for_none()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """An actor has the trial."""
        self.feeder.queue.started(self.feeder.jobs[trial.trial_id])

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Tune starts the trial again; it goes on from its checkpoint."""
        self._watch()
        job, why = self._what_happened(trial)
        if why.startswith(OUT_OF_MEMORY):
            # Not tried again: the new process finds the cell settled.
            with self.feeder.keeping():
                self.feeder.queue.settle_early(job, Outcome(Status.OUT_OF_MEMORY, why))
            return
        charged, why = self._charged(job, why, trial)
        # With no node left it would wait for none: it takes any of them.
        trial.config["avoid"] = "" if self.feeder.unfit.everywhere() else ",".join(self.feeder.unfit.now())
        ray_internals.ask_again(self.feeder.controller, trial)
        self.feeder.queue.retried(job, why, charged=charged)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Failed for good, after the retries."""
        self._watch()
        job, why = self._what_happened(trial)
        status = Status.OUT_OF_MEMORY if why.startswith(OUT_OF_MEMORY) else Status.FAILED
        charged, why = self._charged(job, why, trial)
        with self.feeder.keeping():
            # Tune does not retry a trial whose process dies before it has begun, and counts nodes that were lost.
            if status is Status.FAILED and (not charged or job.retries < self.feeder.max_failures):
                self.feeder.queue.again(job, charged=charged)
            else:
                self.feeder.end(job, Outcome(status, why))

    def _what_happened(self, trial: Trial) -> tuple[Job, str]:
        job = self.feeder.jobs[trial.trial_id]
        why = reason(trial)
        known = unfit.lost(why) or unfit.blamed(why)[0] is not None or why.startswith(OUT_OF_MEMORY)
        return job, why if known else hang.told(self.feeder.queue.store.folder(job.cell.id)) or why

    def _charged(self, job: Job, why: str, trial: Trial) -> tuple[bool, str]:
        """Does a failure count? Not what the infrastructure did, within reason. And the failure as it is told."""
        node, why = unfit.blamed(why)
        if node is not None:
            job.unfit_nodes.add(node)
            kept_away = node in _avoided(trial)
            if kept_away or len(job.unfit_nodes) > MOST_UNFIT:
                return True, why  # another node is at fault, or none: the study's own function, say
            others = [one for one in self.feeder.queue.running.values() if one is not job and one.epochs_seen]
            with self.feeder.keeping():
                self.feeder.unfit.failed(node, why, at_work=bool(others))
        if node is None and not unfit.lost(why) and NO_PLACE not in why:
            return True, why
        job.not_its_fault += 1
        return job.not_its_fault > MOST_OF_NODES, why

    def _watch(self) -> None:
        if self.feeder.orphans is not None:
            self.feeder.orphans.watch()


def _avoided(trial: Trial) -> set[str]:
    return set(filter(None, str(trial.config.get("avoid", "")).split(",")))


def reason(trial: Trial) -> str:
    """What was raised, in one line, or that the process died."""
    error = ray_internals.error_of(trial)
    if isinstance(error, KilledForMemory | OutOfMemoryError):
        return f"{OUT_OF_MEMORY}: the node ran out of memory, and Ray ended the trial's process"
    if isinstance(error, RayActorError):
        node = ray_internals.node_of(error.actor_id) if error.actor_id else ""
        if unfit.lost(str(error)) or (node and not unfit.answers(node)):
            return unfit.GONE if unfit.GONE in str(error) else unfit.LOST
        if not error.actor_init_failed:
            return "the trial's process died"
        said = _raised(str(error))  # not by a cell, which raises what it raises in its first epoch: see `CellTrial`
        return said if unfit.blamed(said)[0] or not node else unfit.cannot_start(said, node=node)
    if error is None:
        text = ray_internals.said_of(trial)
        if "running low on memory" in text:
            return f"{OUT_OF_MEMORY}: the node ran out of memory, and Ray ended the trial's process as it started"
        of = _ENVIRONMENT.search(text)
        return unfit.cannot_start(_raised(text), address=of[1]) if of else _raised(text)
    cause = getattr(error, "cause", None) or error
    first = next(iter(str(cause).strip().splitlines()), "")
    return f"{type(cause).__name__}: {first[:500]}"


def _raised(traceback: str) -> str:
    """Its last line that names an exception."""
    return next((line[:500] for line in reversed(traceback.splitlines()) if _RAISED.match(line)), "unknown error")
