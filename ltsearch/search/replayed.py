"""Searches of a space that is trained already, on a clock of its own: what samplers and early stopping save, and miss.

A store with the learning curve of every configuration answers instead of training. Asking, telling and stopping are
``SearchStudy``'s, as in a sweep; trials run side by side, and an epoch takes as long as it took when it was trained.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ltsearch.plan.cells import Plan
from ltsearch.plan.searched import search_cell
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study import space as spaces
from ltsearch.study.search import EarlyStopping, Search
from trainables.errors import UserError

MEMORY = Path("/dev/shm")
ROUNDING = 1e-9  # accuracies are multiples of one over the number of images, and so may be the tolerance
ANSWERS = (Status.FINISHED, Status.DIVERGED, Status.OUT_OF_MEMORY)


@dataclass(frozen=True)
class Recording:
    """The learning curves of a whole space."""

    records: Mapping[str, CellRecord]  # by cell
    metric: str
    sign: int  # 1: the larger the better; -1
    best: float  # last value of the best configuration that keeps to the constraints
    epochs: int  # of all curves together

    def gap(self, value: float) -> float:
        """How far a value is from the best, in units of the metric; 0 at best, whether it is to be large or small."""
        return self.sign * self.best - self.sign * value


class Found(NamedTuple):
    """What a search knew once a trial was over: after so many epochs of all trials, and seconds."""

    epochs: int
    seconds: float
    gap: float


@dataclass
class Replayed:
    """One search."""

    trials: int = 0
    stopped: int = 0  # of them, early
    epochs: int = 0
    seconds: float = 0.0  # by its clock
    found: list[Found] = field(default_factory=list)  # whenever a trial was better than all before

    def within(self, tolerance: float) -> int | None:
        """Epochs until a trial that is that close to the space's best was over; None if there was none."""
        return next((at.epochs for at in self.found if at.gap <= tolerance + ROUNDING), None)


def record_of(plan: Plan, store: CellStore) -> Recording:
    """The curves of a study's search space.

    Raises ``UserError`` if the study has no search that can be replayed, or cells of its space have no whole curve.
    """
    where, search = plan.loaded.file, plan.loaded.spec.search
    if search is None:
        raise UserError(f"{where}: no `search`, of which learning curves could be replayed")
    if len(search.metrics) > 1 or search.seeds_per_trial > 1:
        raise UserError(f"{where}: search: only a search with one metric and one seed a trial can be replayed")
    for name, parameter in search.space.items():
        if parameter.choice is None and parameter.int_ is None:
            raise UserError(
                f"{where}: search.space.{name}: to be replayed it must be a `choice` or an `int`, whose values all ran"
            )
    everything = spaces.combinations(search.space)
    if everything is None:
        raise UserError(f"{where}: search.space has more than 100,000 configurations, too many to have run")
    metric = search.metrics[0]
    records: dict[str, CellRecord] = {}
    lacking, every = 0, 1
    for chosen in everything:
        try:
            cell = search_cell(plan, chosen)
        except UserError:  # values that are fine one by one and not together: no search tries them
            continue
        record = store.read(cell.id)
        if record is not None and record.status in ANSWERS and all(metric.name in e.metrics for e in record.history):
            records[cell.id] = _needed(record, search)
        else:
            lacking, every = lacking + 1, max(every, cell.config.evaluation.every or 1)
    if lacking:
        often = f" (they are evaluated every {every} epochs: leave out evaluation.every)" if every > 1 else ""
        raise UserError(
            f"{where}: {lacking} of {lacking + len(records)} configurations of search.space have no learning curve of "
            f"{metric.name} in {store.root}{often}; a sweep with search.early_stopping=null, search.sampler=random and as "
            "many search.trials trains them, `ltsearch restore` takes them from an export"
        )
    if len({record.fingerprint for record in records.values()}) > 1:
        raise UserError(
            f"{where}: cells of search.space in {store.root} were trained on different images; run the sweep again"
        )
    sign = 1 if metric.mode == "max" else -1
    ends = [sign * r.history[-1].metrics[metric.name] for r in records.values() if _counts(r, search)]
    if not ends:
        raise UserError(f"{where}: no configuration of search.space has finished within search.constraints")
    return Recording(records, metric.name, sign, sign * max(ends), sum(len(r.history) for r in records.values()))


def _needed(record: CellRecord, search: Search) -> CellRecord:
    """What is asked of it here: it is sent to every process."""
    names = {search.metrics[0].name, "seconds", *(one.metric for one in search.constraints)}
    history = [
        Epoch(epoch=e.epoch, metrics={name: value for name, value in e.metrics.items() if name in names})
        for e in record.history
    ]
    return record.model_copy(update={"history": history, "per_class": {}, "final": {}})


def _counts(record: CellRecord, search: Search) -> bool:
    """Has it come to its end, within the constraints?"""
    last = record.history[-1].metrics if record.history else {}
    return record.status is Status.FINISHED and all(c.violation(last.get(c.metric)) <= 0 for c in search.constraints)


def with_search(plan: Plan, sampler: str, stopping: EarlyStopping | None, seed: int, trials: int) -> Plan:
    """The study with another search of the same space; raises ``UserError`` if that sampler cannot search it.

    Nothing is tried first, so that searches differ by their seeds.
    """
    spec = plan.loaded.spec
    assert spec.search is not None
    its = {"space", "with_", "set", "metrics", "constraints", "val_per_class", "trial_seed"}
    kept = spec.search.model_dump(by_alias=True, include=its)
    how = {
        "sampler": sampler,
        "seed": seed,
        "trials": trials,
        "enqueue": [],
        "confirm": None,
        "early_stopping": stopping,
    }
    try:
        search = Search.model_validate({**kept, **how})
    except ValidationError as error:
        raise UserError(f"--samplers {sampler}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return replace(plan, loaded=plan.loaded.model_copy(update={"spec": spec.model_copy(update={"search": search})}))


def replay(plan: Plan, recording: Recording, at_once: int) -> Replayed:
    """A study's search, answered from the recording; ``at_once`` trials side by side."""
    # A journal waits for its disk at every line, and this one is not to be kept.
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        return _Clock(SearchStudy(plan, Path(folder)), recording).run(at_once)


class _Clock:
    """Trials side by side, each of which ends an epoch when it did when it was trained."""

    def __init__(self, study: SearchStudy, recording: Recording) -> None:
        self.study, self.recording = study, recording
        self.now, self.done = 0.0, Replayed()
        # When an epoch ends, of which trial, its cell, and which epoch, from 0.
        self.running: list[tuple[float, int, str, int]] = []
        self.in_hand: tuple[int, str] | None = None

    def run(self, at_once: int) -> Replayed:
        """To the end of the search."""
        # As in a sweep: where trials run side by side one more is proposed ahead of need, before the result that makes room.
        ahead = at_once > 1
        while len(self.running) < at_once and (asked := self._ask()):
            self._start(*asked)
        self.in_hand = self._ask() if ahead else None
        while self.running:
            self.now, number, cell, at = heapq.heappop(self.running)
            if not self._epoch(number, cell, at):
                continue
            following = self.in_hand if ahead else self._ask()
            if following is not None:
                self._start(*following)
                self.in_hand = self._ask() if ahead else None
        return self.done

    def _ask(self) -> tuple[int, str] | None:
        """The next trial that has an epoch; those that failed before their first are told at once."""
        while (asked := self.study.ask()) is not None:
            number, cell = asked[0], asked[1].id
            self.done.trials += 1
            record = self.recording.records[cell]
            if record.history:
                return number, cell
            self.study.tell(number, record.status, record)
        return None

    def _start(self, number: int, cell: str, at: int = 0) -> None:
        took = self.recording.records[cell].history[at].metrics.get("seconds", 1.0)
        heapq.heappush(self.running, (self.now + took, number, cell, at))

    def _epoch(self, number: int, cell: str, at: int) -> bool:
        """An epoch has ended; is the trial over?"""
        record, done = self.recording.records[cell], self.done
        last = at + 1 == len(record.history)
        done.epochs, done.seconds = done.epochs + 1, self.now
        stop = self.study.report(number, record.history[at], last and record.status is Status.FINISHED)
        if not last and not stop:
            self._start(number, cell, at + 1)
            return False
        status = Status.PRUNED if stop else record.status
        done.stopped += stop
        self.study.tell(
            number, status, record.model_copy(update={"history": record.history[: at + 1], "status": status})
        )
        if status is Status.FINISHED and _counts(record, self.study.search):
            gap = self.recording.gap(record.history[-1].metrics[self.recording.metric])
            if not done.found or gap < done.found[-1].gap:
                done.found.append(Found(done.epochs, self.now, gap))
        return True
