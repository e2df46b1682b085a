"""The queue: which cell runs next, and what follows when one ends.

Ablation cells first, then the search (its asks and tells), then the cells that confirm its winners. What a cell requires (a
teacher, a first stage) runs before it. Finished cells are never handed out again; what several rows, trials or sweeps share
runs once. ``jobs.TRANSITIONS`` has the states of a job.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ltsearch.plan.adaptive import seeds_now
from ltsearch.plan.cells import Cell, Plan, first, required_label
from ltsearch.run.jobs import Ended, Job, Listener, Outcome, State, bare_record
from ltsearch.run.line import Line
from ltsearch.run.others import Others
from ltsearch.run.weights import unusable
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.records import SETTLED, CellRecord, Epoch, Status
from ltsearch.store.retries import patiently
from ltsearch.study.spec import AdaptiveSeeds


class Queue:
    """Knows nothing of Ray: ``runner`` asks for jobs and tells what became of them."""

    def __init__(
        self,
        plan: Plan,
        store: CellStore,
        study: SearchStudy | None,
        listeners: Sequence[Listener],
        is_stale: Callable[[CellRecord], bool],
        claims: Claims | None = None,
        *,
        helps: bool = False,
    ) -> None:
        """``is_stale`` tells records of another content of the data set; ``claims`` keep other sweeps from the same cells.

        ``helps``: another driver has the sweep, so that what others train is left to them and not waited for, and so is what
        has failed or is stale: the sweep itself decides what becomes of that.
        """
        self.others = Others(claims, store.sweep_folder(plan.loaded.sweep), helps=helps)
        self.plan, self.store, self.study = plan, store, study
        self.listeners = listeners
        self.is_stale = is_stale
        self.say: Callable[[str], None] = print
        self.running: dict[str, Job] = {}  # by cell
        self.ended: dict[str, Ended] = {}  # by cell, of this run of the command
        self.line = Line()
        self._left_out: set[str] = set()  # rows, as asked
        self._known_weights: set[str] = set()  # required cells whose weights were looked at
        self._planned: set[str] = set()  # cells of the ablation that are finished or were put into line
        self._may_grow = isinstance(plan.loaded.spec.seeds, AdaptiveSeeds)
        self._searching = study is not None
        self._plan_ablation()

    # -- what is next ----------------------------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """The next job; None if there is none at the moment (``exhausted`` tells whether there will be)."""
        for cell in self.others.free(self._settled):
            self.line.unblock(cell)
        while True:
            while (job := self.line.pop()) is not None:
                if self._can_run(job):
                    job.to(State.RUNNING)
                    self.running[job.cell.id] = job
                    return job
            if not self._plan_more():
                return None

    def _can_run(self, job: Job) -> bool:
        """Is it to be handed out? Else it is over, or blocked.

        Nothing of a cell is changed before it is claimed: another sweep may be training it.
        """
        cell = job.cell
        if cell.id in self.running:
            self.line.block(job, cell.id)
            return False
        record = self._fresh(cell.id)
        if record is not None and record.status in SETTLED:
            self._tell_settled(job, record)
            return False
        if self.others.helps and self._is_left(cell.id):
            self.others.left.add(cell.id)
            self.line.block(job, cell.id)
            return False
        if missing := self._missing(cell):
            self._put_first(missing)
            if self._cannot(missing):
                ids = ", ".join(first.id for first in missing)
                self.end(job, Outcome(Status.FAILED, f"what it requires, {ids}, has not finished"))
            else:
                self.line.block(job, missing[0].id)
            return False
        if (other := self.others.claim(cell.id)) is not None:
            waits = "it is left to that" if self.others.helps else "it is waited for"
            self.say(f"{job.label} ({cell.id}): {other} is training it; {waits}")
            self.line.block(job, cell.id)
            return False
        record = self._current(cell.id)
        if record is not None and record.status in SETTLED:  # another sweep has finished it before it was claimed
            self._tell_settled(job, record)
            return False
        if record is not None and job.trial_number is not None and self._replay(job.trial_number, record):
            if record.status is not Status.PRUNED:  # the driver died between the verdict and the record
                record = self.store.settle(record, Status.PRUNED)
            self._tell(job, Status.PRUNED, record)
            self._over(job)
            return False
        job.goes_on = record is not None
        job.started = record.started if record is not None else time.time()
        return True

    def _over(self, job: Job) -> None:
        self.others.release(job.cell.id)
        self.line.over(job)

    def _is_left(self, cell: str) -> bool:
        record = self.store.read(cell)
        return record is not None and (record.status is Status.FAILED or self.is_stale(record))

    @property
    def only_waits_for_others(self) -> bool:
        """Does nothing run here, and all that is left wait for what other sweeps train?"""
        return bool(self.others.elsewhere) and not self.running

    # -- what comes next -------------------------------------------------------------------------------------------------

    def _plan_more(self) -> bool:
        """Put what comes next into line; False if nothing does at the moment."""
        if self._may_grow and not self.running and not self.line.blocked:
            added = self._plan_ablation()
            self._may_grow = added > 0
            for listener in self.listeners:
                listener.planned(added)
            if added:
                return True
        if not self._searching or self.study is None:
            return False
        # A trial that is blocked is waited for: what it waits for may be what the next proposal is.
        asked = self.study.ask() if not self.line.search_blocked else None
        if asked is not None:
            number, cell = asked
            if self.study.is_known(number):
                for listener in self.listeners:
                    listener.planned(1)
            self.line.wait([self._search_job(number, cell)])
            return True
        if self.line.of_search:
            return False
        self._searching = False
        for rank, (trial, cells) in enumerate(self.study.winners(), 1):
            label = f"confirm {rank} (trial {trial.number})"
            new = [Job(cell, "confirm", f"{label} · seed {cell.seed}") for cell in cells]
            self.line.wait([job for job in new if not self._settled(job.cell.id)])
        return True

    def could_run(self) -> int:
        """Cells that could run at once if there were room: they run or wait, or the search may still propose them."""
        may_propose = self._searching and not self.line.search_blocked
        proposals = self.study.left() if self.study is not None and may_propose else 0
        return len(self.running) + self.line.waiting + proposals

    # -- what is asked of it while it runs ---------------------------------------------------------------------------------

    def change_trials(self, trials: int) -> str:
        """Another budget for the search; returns what to tell."""
        if self.study is None:
            return f"{trials} trials were asked for, but this study has no search"
        if not self._searching:
            return f"{trials} trials were asked for, but the search is over: `--set search.trials={trials}` goes on with it"
        before, now = self.study.change_trials(trials)
        for listener in self.listeners:
            listener.planned((now - before) * self.study.search.seeds_per_trial)
        return f"as asked: {now} trials instead of {before}"

    def leave_out(self, row: str) -> int:
        """Forget what waits only for a row's sake; returns how many cells that are."""
        self._left_out.add(row)
        needed = self._needed()
        dropped = self.line.drop(lambda job: job.stage in ("ablation", "required") and job.cell.id not in needed)
        for job in dropped:
            self.others.forget(job.cell.id)
        for listener in self.listeners:
            listener.planned(-len(dropped))
        return len(dropped)

    def _needed(self) -> set[str]:
        """Cells that rows which are not left out, and whatever else is to run, cannot do without."""
        rows = [row for row in self.plan.rows if row.label not in self._left_out]
        jobs = [job for job in (*self.line.jobs(), *self.running.values()) if job.stage in ("search", "confirm")]
        cells = [*(cell for row in rows for cell in row.cells), *(job.cell for job in jobs)]
        return {one.id for cell in cells for one in (*first(cell), cell)}

    @property
    def exhausted(self) -> bool:
        """Nothing waits, nothing runs, and nothing will come."""
        if self.others.helps and not self.running:
            return self.others.have_all(self.line.jobs())
        return not (self.running or self.line or self._searching)

    def _plan_ablation(self) -> int:
        """Put what the ablation needs, by what has finished so far, into line; returns how many cells."""
        plan = self.plan.with_seeds(seeds_now(self.plan, self._fresh))
        labels = {cell.id: (row.label, cell.seed) for row in reversed(plan.rows) for cell in row.cells}
        new = []
        needed = self._needed() if self._left_out else None
        for cell in plan.cells:
            if cell.id not in self._planned and (needed is None or cell.id in needed):
                self._planned.add(cell.id)
                if not self._settled(cell.id):
                    label = "{} · seed {}".format(*labels[cell.id]) if cell.id in labels else required_label(cell)
                    new.append(Job(cell, "ablation" if cell.id in labels else "required", label))
        self.line.wait(new)
        return len(new)

    # -- what is known of a cell -----------------------------------------------------------------------------------------

    def _settled(self, cell: str) -> bool:
        record = self.store.head(cell)
        return record is not None and record.status in SETTLED and not self.is_stale(record)

    def _fresh(self, cell: str) -> CellRecord | None:
        record = self.store.read(cell)
        return None if record is None or self.is_stale(record) else record

    def _current(self, cell: str) -> CellRecord | None:
        """A cell's record; one that was made from another content of its data set is forgotten."""
        if told := self.store.set_aside_if_bad(cell):
            self.say(told)
        record = self.store.read(cell)
        if record is not None and self.is_stale(record):
            self.store.clear(cell)
            return None
        return record

    # -- what comes first ------------------------------------------------------------------------------------------------

    def _missing(self, cell: Cell) -> list[Cell]:
        """What a cell requires and is not there: not finished, or its weights cannot be used, and it is trained again."""
        for one in cell.requires:
            if one.id not in self._known_weights and self._finished(one.id):
                self._known_weights.add(one.id)
                if why := unusable(self.store, one):
                    self.say(self.store.set_aside(one.id, why))
        return [one for one in cell.requires if not self._finished(one.id)]

    def _finished(self, cell: str) -> bool:
        record = self._fresh(cell)
        return record is not None and record.status is Status.FINISHED

    def _put_first(self, required: Sequence[Cell]) -> None:
        """Put cells that nobody has put there yet at the head of the line."""
        known = self.running.keys() | self.ended.keys()
        new = [one for one in required if one.id not in known and one.id not in self.line and not self._settled(one.id)]
        for listener in self.listeners:
            listener.planned(len(new))
        self.line.wait([Job(one, "required", required_label(one)) for one in new], first=True)

    def _cannot(self, required: Sequence[Cell]) -> bool:
        """Has one of them ended without weights? A failed one was tried in this sweep already."""
        records = {one.id: self._fresh(one.id) for one in required}
        settled = [cell for cell, record in records.items() if record is not None and record.status in SETTLED]
        return bool(settled) or any(one.id in self.ended for one in required)

    # -- the search ------------------------------------------------------------------------------------------------------

    def _search_job(self, number: int, cell: Cell) -> Job:
        several = self.study is not None and self.study.search.seeds_per_trial > 1
        label = f"trial {number} · seed {cell.seed}" if several else f"trial {number}"
        return Job(cell, "search", label, trial_number=number)

    def _tell(self, job: Job, status: Status, record: CellRecord) -> None:
        if job.trial_number is None or self.study is None:
            return
        following = self.study.tell(job.trial_number, status, record)
        if following is not None:  # the same configuration with another seed
            self.line.wait([self._search_job(job.trial_number, following)], first=True)
        elif left := self.study.seeds.not_needed(job.trial_number):
            for listener in self.listeners:
                listener.planned(-left)

    def _tell_settled(self, job: Job, record: CellRecord) -> None:
        """Another sweep, or a row, has run a job's cell: its history is told, nothing is trained."""
        if job.trial_number is not None and self.study is not None:
            for epoch in record.history:
                self.study.report(job.trial_number, epoch, last=epoch.epoch == job.epochs)
            self._tell(job, record.status, record)
        for listener in self.listeners:
            listener.settled(job, Outcome(record.status, record.error))
        self._over(job)

    def _replay(self, number: int, record: CellRecord) -> bool:
        """Tell what is known of an unfinished cell: epochs up to its checkpoint will not be reported again.

        True if the search stops the trial on that alone, as it does one that it, or another search, stopped before.
        """
        assert self.study is not None
        return any(self.study.report(number, epoch, last=False) for epoch in record.history)

    # -- what became of it -----------------------------------------------------------------------------------------------

    def started(self, job: Job) -> None:
        """A job's actor was told to begin or go on."""
        for listener in self.listeners:
            listener.started(job)

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, list[float | None]], last: bool) -> bool:
        """An epoch is over; True if the trial is to be stopped early."""
        job.epochs_seen[epoch.epoch] = epoch
        for listener in self.listeners:
            listener.epoch(job, epoch, per_class)
        return (
            job.trial_number is not None
            and self.study is not None
            and self.study.report(job.trial_number, epoch, last=last)
        )

    def retried(self, job: Job, error: str, *, charged: bool = True) -> None:
        """A failed job goes on from its checkpoint; what the infrastructure did is not ``charged``."""
        job.retries += charged
        for listener in self.listeners:
            listener.retried(job, error)

    def end(self, job: Job, outcome: Outcome) -> None:
        """A job is over. Stopped and failed ones get their record here: their actor no longer can."""
        outcome, record = patiently(lambda: self._settle(job, outcome))
        self.running.pop(job.cell.id, None)
        self._tell(job, outcome.status, record)
        self.ended[job.cell.id] = Ended(job.cell.id, job.stage, job.label, outcome)
        for listener in self.listeners:
            listener.ended(job, outcome)
        self._over(job)

    def _settle(self, job: Job, outcome: Outcome) -> tuple[Outcome, CellRecord]:
        """How the job really ended, and its record. What is settled stays so, whatever became of the trial afterwards."""
        record = self.store.read(job.cell.id)
        if record is not None and record.status in SETTLED:
            failed = outcome.status in (Status.FAILED, Status.OUT_OF_MEMORY)
            return Outcome(record.status, record.error) if failed else outcome, record
        unable = (Status.PRUNED, Status.FAILED, Status.OUT_OF_MEMORY)  # its actor no longer writes it
        if outcome.status in unable or record is None or record.status is Status.RUNNING:
            record = record or bare_record(job)
            seen = {e.epoch: e for e in record.history} | job.epochs_seen
            history = [seen[number] for number in sorted(seen)]
            record = self.store.settle(record.model_copy(update={"history": history}), outcome.status, outcome.error)
        return outcome, record

    def settle_early(self, job: Job, outcome: Outcome) -> None:
        """Its record, while Tune still thinks that it goes on: it is not trained any more, and ends at its next step."""
        patiently(lambda: self._settle(job, outcome))

    def again(self, job: Job, *, charged: bool = True) -> None:
        """A job whose process died before it had begun, or whose node was at fault, is put back."""
        self.running.pop(job.cell.id, None)
        job.retries += charged
        self.line.wait([job], first=True)
