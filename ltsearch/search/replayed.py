"""Searches of a space that is trained already, on a clock of its own: what samplers and early stopping save, and miss.

A store with the learning curve of every configuration answers instead of training. Asking, telling and stopping are
``SearchStudy``'s, as in a sweep; trials run side by side, and an epoch takes as long as it took when it was trained.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ltsearch.plan.cells import Plan
from ltsearch.plan.searched import search_cell
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Status
from ltsearch.study import space as spaces
from ltsearch.study.search import EarlyStopping, Search
from trainables.errors import UserError

MEMORY = Path("/dev/shm")
ANSWERS = (Status.FINISHED, Status.DIVERGED, Status.OUT_OF_MEMORY)


@dataclass(frozen=True)
class Recording:
    """The learning curves of a whole space."""

    records: Mapping[str, CellRecord]  # by cell
    metric: str
    sign: int  # 1: the larger the better; -1
    best: float  # last value of the best configuration
    epochs: int  # of all curves together


class Found(NamedTuple):
    """What a search knew once a trial was over: after so many epochs of all trials, and seconds."""

    epochs: int
    seconds: float
    best: float


@dataclass
class Replayed:
    """One search."""

    trials: int = 0
    stopped: int = 0  # of them, early
    epochs: int = 0
    seconds: float = 0.0  # by its clock
    found: list[Found] = field(default_factory=list)  # whenever a trial was better than all before

    def within(self, recording: Recording, tolerance: float) -> int | None:
        """Epochs until a trial that is that close to the space's best was over; None if there was none."""
        enough = recording.sign * recording.best - tolerance
        return next((at.epochs for at in self.found if recording.sign * at.best >= enough), None)


def record_of(plan: Plan, store: CellStore) -> Recording:
    """The curves of a study's search space.

    Raises ``UserError`` if the study has no search that can be replayed, or cells of its space have no whole curve.
    """
    where, search = plan.loaded.file, plan.loaded.spec.search
    if search is None:
        raise UserError(f"{where}: no `search`, of which learning curves could be replayed")
    if len(search.metrics) > 1 or search.seeds_per_trial > 1:
        raise UserError(f"{where}: search: only a search with one metric and one seed a trial can be replayed")
    everything = spaces.combinations(search.space)
    if everything is None:
        raise UserError(
            f"{where}: search.space: to be replayed it must be a list of values in every parameter (`choice`, `int`)"
        )
    metric = search.metrics[0]
    records, lacking = {}, 0
    for chosen in everything:
        try:
            cell = search_cell(plan, chosen)
        except UserError:  # values that are fine one by one and not together: no search tries them
            continue
        record = store.read(cell.id)
        if record is None or record.status not in ANSWERS or any(metric.name not in e.metrics for e in record.history):
            lacking += 1
        else:
            records[cell.id] = record
    if lacking:
        raise UserError(
            f"{where}: {lacking} of {lacking + len(records)} configurations of search.space have no learning curve of "
            f"{metric.name} in {store.root}; a sweep with search.early_stopping=null, search.sampler=random and as "
            "many search.trials trains them, `ltsearch restore` takes them from an export"
        )
    sign = 1 if metric.mode == "max" else -1
    ends = [sign * r.history[-1].metrics[metric.name] for r in records.values() if r.status is Status.FINISHED]
    if not ends:
        raise UserError(f"{where}: no configuration of search.space has finished")
    return Recording(records, metric.name, sign, sign * max(ends), sum(len(r.history) for r in records.values()))


def replay(
    plan: Plan,
    recording: Recording,
    *,
    sampler: str,
    stopping: EarlyStopping | None,
    seed: int,
    trials: int,
    at_once: int,
) -> Replayed:
    """One search of so many trials, ``at_once`` of them side by side."""
    # A journal waits for its disk at every line, and this one is not to be kept.
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        study = SearchStudy(_with(plan, sampler, stopping, seed, trials), Path(folder))
        return _run(study, recording, at_once)


def _run(study: SearchStudy, recording: Recording, at_once: int) -> Replayed:
    done, clock = Replayed(), 0.0
    running: list[
        tuple[float, int, str, int]
    ] = []  # when an epoch ends, of which trial, its cell, and which epoch, from 0

    def start() -> None:
        if (asked := study.ask()) is not None:
            done.trials += 1
            push(asked[0], asked[1].id, 0)

    def push(number: int, cell: str, at: int) -> None:
        took = recording.records[cell].history[at].metrics.get("seconds", 1.0)
        heapq.heappush(running, (clock + took, number, cell, at))

    for _ in range(at_once):
        start()
    while running:
        clock, number, cell, at = heapq.heappop(running)
        record = recording.records[cell]
        last, done.epochs, done.seconds = at + 1 == len(record.history), done.epochs + 1, clock
        stop = study.report(number, record.history[at], last and record.status is Status.FINISHED)
        if not last and not stop:
            push(number, cell, at + 1)
            continue
        status = record.status if last else Status.PRUNED
        done.stopped += status is Status.PRUNED
        study.tell(number, status, record.model_copy(update={"history": record.history[: at + 1], "status": status}))
        if status is Status.FINISHED:
            value = record.history[-1].metrics[recording.metric]
            if not done.found or recording.sign * value > recording.sign * done.found[-1].best:
                done.found.append(Found(done.epochs, clock, value))
        start()
    return done


def _with(plan: Plan, sampler: str, stopping: EarlyStopping | None, seed: int, trials: int) -> Plan:
    """The study with another search of the same space; nothing is tried first, so that searches differ by their seeds."""
    spec = plan.loaded.spec
    assert spec.search is not None
    kept = spec.search.model_dump(
        by_alias=True, include={"space", "with_", "set", "metrics", "constraints", "val_per_class", "trial_seed"}
    )
    how = {
        "sampler": sampler,
        "seed": seed,
        "trials": trials,
        "enqueue": [],
        "confirm": None,
        "early_stopping": stopping,
    }
    search = Search.model_validate({**kept, **how})
    return replace(plan, loaded=plan.loaded.model_copy(update={"spec": spec.model_copy(update={"search": search})}))
