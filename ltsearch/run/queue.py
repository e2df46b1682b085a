"""The queue: which cell runs next, and what follows when one ends.

Ablation cells first, then the search (its asks and tells), then the cells that confirm its winners. What a cell requires (a
teacher, a first stage) runs before it. Finished cells are never handed out again; what several rows, trials or sweeps share
runs once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from ltsearch.plan.adaptive import seeds_now
from ltsearch.plan.layout import Cell, Plan, required_label
from ltsearch.run.jobs import Job, Listener, Outcome
from ltsearch.run.weights import unusable
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
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
    ) -> None:
        """``is_stale`` tells records of another content of the data set."""
        self.plan, self.store, self.study = plan, store, study
        self.listeners = listeners
        self.is_stale = is_stale
        self.say: Callable[[str], None] = print
        self._looked_at: set[str] = set()  # required cells whose weights were found to be there
        self._planned: set[str] = set()  # cells of the ablation that are finished or were put into the queue
        self._waiting: deque[Job] = deque()
        self._grow()
        self._may_grow = isinstance(plan.loaded.spec.seeds, AdaptiveSeeds)
        self.running: dict[str, Job] = {}
        self.ended: list[tuple[Job, Outcome]] = []
        self._confirming = False
        self._held: list[Job] = []  # search trials whose cell is running already

    def _settled(self, cell: str) -> bool:
        record = self.store.read(cell)
        return record is not None and record.status in SETTLED and not self.is_stale(record)

    # -- what is next ----------------------------------------------------------------------------------------------------

    def _grow(self) -> int:
        """Put what the ablation needs, by what has finished so far, into the queue; returns how many cells."""
        plan = self.plan.with_seeds(seeds_now(self.plan, self._fresh))
        labels = {cell.id: (row.label, cell.seed) for row in reversed(plan.rows) for cell in row.cells}
        added = 0
        for cell in plan.cells:
            if cell.id not in self._planned:
                self._planned.add(cell.id)
                if not self._settled(cell.id):
                    label = "{} · seed {}".format(*labels[cell.id]) if cell.id in labels else required_label(cell)
                    self._waiting.append(Job(cell, "ablation" if cell.id in labels else "required", label))
                    added += 1
        return added

    def _fresh(self, cell: str) -> CellRecord | None:
        record = self.store.read(cell)
        return None if record is None or self.is_stale(record) else record

    def next(self) -> Job | None:
        """The next job; None if there is none at the moment (``exhausted`` tells whether there will be)."""
        if self._may_grow and not self._waiting and not self.running:
            added = self._grow()
            self._may_grow = added > 0
            for listener in self.listeners:
                listener.planned(added)
        job = self._next_waiting() or self._next_search()
        if job is None and not self._confirming and self.study is not None and not self._searching():
            self._confirming = True
            for rank, (trial, cells) in enumerate(self.study.winners(), 1):
                for cell in cells:
                    if not self._settled(cell.id):
                        label = f"confirm {rank} (trial {trial.number}) · seed {cell.seed}"
                        self._waiting.append(Job(cell, "confirm", label))
            job = self._next_waiting()
        if job is not None:
            record = self._current(job.cell.id)
            job.started = record.started if record is not None and record.status not in SETTLED else time.time()
            self.running[job.cell.id] = job
        return job

    def _current(self, cell: str) -> CellRecord | None:
        """A cell's record; one that was made from another content of its data set is forgotten."""
        if told := self.store.set_aside_if_bad(cell):
            self.say(told)
        record = self.store.read(cell)
        if record is not None and self.is_stale(record):
            self.store.clear(cell)
            return None
        return record

    def _next_waiting(self) -> Job | None:
        # Confirmed winners may coincide with a cell that is running or has just ended.
        left = len(self._waiting)
        while left > 0:
            left -= 1
            job = self._waiting.popleft()
            if job.cell.id in self.running or self._settled(job.cell.id):
                continue
            missing = self._missing(job.cell)
            if not missing:
                return job
            left += self._put_first(missing)
            if self._cannot(missing):
                self._give_up(job, missing)
            else:
                self._waiting.append(job)
        return None

    # -- what comes first ------------------------------------------------------------------------------------------------

    def _missing(self, cell: Cell) -> list[Cell]:
        """What a cell requires and is not there: not finished, or its weights cannot be used, and it is trained again."""
        for first in cell.requires:
            if first.id not in self._looked_at and self._finished(first.id):
                self._looked_at.add(first.id)
                if why := unusable(self.store, first):
                    self.say(self.store.set_aside(first.id, why))
        return [first for first in cell.requires if not self._finished(first.id)]

    def _finished(self, cell: str) -> bool:
        record = self._fresh(cell)
        return record is not None and record.status is Status.FINISHED

    def _put_first(self, required: Sequence[Cell]) -> int:
        """Put cells that nobody has put there yet at the head of the queue; returns how many."""
        known = {*self.running, *(job.cell.id for job in self._waiting), *(job.cell.id for job, _ in self.ended)}
        new = [first for first in required if first.id not in known and not self._settled(first.id)]
        for listener in self.listeners:
            listener.planned(len(new))
        self._waiting.extendleft(Job(first, "required", required_label(first)) for first in reversed(new))
        return len(new)

    def _cannot(self, required: Sequence[Cell]) -> bool:
        """Has one of them ended without weights? A failed one was tried in this sweep already."""
        over = {job.cell.id for job, _ in self.ended}
        return any(first.id in over or self._settled(first.id) for first in required)

    def _give_up(self, job: Job, required: Sequence[Cell]) -> None:
        ids = ", ".join(first.id for first in required)
        self.end(job, Outcome(Status.FAILED, f"what it requires, {ids}, has not finished"))

    def _next_search(self) -> Job | None:
        while self.study is not None and not self._confirming:
            held = next((job for job in self._held if self._may_go_on(job)), None)
            if held is not None and held.trial_number is not None:
                self._held.remove(held)
                number, cell, retries = held.trial_number, held.cell, held.retries
            else:
                asked = self.study.ask() if not self._held else None
                if asked is None:
                    return None
                (number, cell), retries = asked, 0
            if cell.id in self.running:
                self._held.append(Job(cell, "search", f"trial {number}", trial_number=number))
                return None
            record = self._current(cell.id)
            if record is not None and record.status in SETTLED:
                # Another sweep has run it: its history is told, nothing is trained.
                for epoch in record.history:
                    self.study.report(number, epoch, last=epoch.epoch == cell.config.loop.epochs)
                self.study.tell(number, record.status, record)
                continue
            missing = self._missing(cell)
            if missing:
                job = Job(cell, "search", f"trial {number}", trial_number=number)
                self._put_first(missing)
                if self._cannot(missing):
                    self._give_up(job, missing)
                    continue
                self._held.append(job)
                return self._next_waiting()
            if record is not None and self._replay(number, record):
                if record.status is not Status.PRUNED:  # the driver died between the verdict and the record
                    record = self.store.settle(record, Status.PRUNED)
                self.study.tell(number, Status.PRUNED, record)
                continue
            return Job(cell, "search", f"trial {number}", trial_number=number, retries=retries)
        return None

    def _may_go_on(self, job: Job) -> bool:
        """Is what a held search trial waits for, its cell in another trial or what it requires, over?"""
        ahead = {job.cell.id, *(first.id for first in job.cell.requires)}
        return not ahead & {*self.running, *(waiting.cell.id for waiting in self._waiting)}

    def _replay(self, number: int, record: CellRecord) -> bool:
        """Tell what is known of an unfinished cell: epochs up to its checkpoint will not be reported again.

        True if the search stops the trial on that alone, as it does one that it, or another search, stopped before.
        """
        assert self.study is not None
        return any(self.study.report(number, epoch, last=False) for epoch in record.history)

    def _searching(self) -> bool:
        return bool(self._held) or any(job.stage == "search" for job in self.running.values())

    @property
    def exhausted(self) -> bool:
        """Nothing waits, nothing runs, and nothing will come."""
        return not self.running and not self._waiting and (self.study is None or self._confirming)

    # -- what became of it -----------------------------------------------------------------------------------------------

    def started(self, job: Job) -> None:
        """A job's actor was told to begin or go on."""
        for listener in self.listeners:
            listener.started(job)

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, list[float | None]], last: bool) -> bool:
        """An epoch is over; True if the trial is to be stopped early."""
        job.epochs_seen = [e for e in job.epochs_seen if e.epoch < epoch.epoch] + [epoch]
        for listener in self.listeners:
            listener.epoch(job, epoch, per_class)
        return (
            job.trial_number is not None
            and self.study is not None
            and self.study.report(job.trial_number, epoch, last=last)
        )

    def retried(self, job: Job, error: str) -> None:
        """A failed job goes on from its checkpoint."""
        job.retries += 1
        for listener in self.listeners:
            listener.retried(job, error)

    def end(self, job: Job, outcome: Outcome) -> None:
        """A job is over. Stopped and failed ones get their record here: their actor no longer can."""
        outcome, record = patiently(lambda: self._settle(job, outcome))
        self.running.pop(job.cell.id, None)
        if job.trial_number is not None and self.study is not None:
            self.study.tell(job.trial_number, outcome.status, record)
        self.ended.append((job, outcome))
        for listener in self.listeners:
            listener.ended(job, outcome)

    def _settle(self, job: Job, outcome: Outcome) -> tuple[Outcome, CellRecord]:
        """How the job really ended, and its record. What is settled stays so, whatever became of the trial afterwards."""
        record = self.store.read(job.cell.id)
        if record is not None and record.status in SETTLED:
            failed = outcome.status in (Status.FAILED, Status.OUT_OF_MEMORY)
            return Outcome(record.status, record.error) if failed else outcome, record
        unable = (Status.PRUNED, Status.FAILED, Status.OUT_OF_MEMORY)  # its actor no longer writes it
        if outcome.status in unable or record is None or record.status is Status.RUNNING:
            record = record or self._bare_record(job)
            seen = {e.epoch: e for e in [*record.history, *job.epochs_seen]}
            history = [seen[number] for number in sorted(seen)]
            record = self.store.settle(record.model_copy(update={"history": history}), outcome.status, outcome.error)
        return outcome, record

    def settle_early(self, job: Job, outcome: Outcome) -> None:
        """Its record, while Tune still thinks that it goes on: it is not trained any more, and ends at its next step."""
        patiently(lambda: self._settle(job, outcome))

    def again(self, job: Job) -> None:
        """A job whose process died before it had begun is put back."""
        self.running.pop(job.cell.id, None)
        job.retries += 1
        if job.trial_number is None:
            self._waiting.appendleft(job)
        else:
            self._held.append(job)

    @staticmethod
    def _bare_record(job: Job) -> CellRecord:
        from ltsearch.store.ids import recipes

        config = job.cell.config
        return CellRecord(
            cell=job.cell.id,
            config=config.model_dump(mode="json"),
            recipes=recipes(config),
            status=Status.RUNNING,
            started=job.started,
        )
