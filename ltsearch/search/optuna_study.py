"""The search: an Optuna study that survives its driver.

Everything that the search knows (trials, values of every epoch, ASHA's rungs) lies in Optuna's journal, so a study that is
loaded again goes on with its history and its early-stopping state. The sampler is made anew for every trial, seeded by the
study's seed and the trial's number: an interrupted search proposes what an uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState

from ltsearch.plan.cells import Cell, Plan
from ltsearch.plan.placement import check_workers
from ltsearch.plan.searched import confirm_cells, first_choices, search_cell
from ltsearch.search import budget, rungs
from ltsearch.search.journal import damaged, journal, where
from ltsearch.search.optuna_internals import live
from ltsearch.search.record import CELL, search_record
from ltsearch.search.samplers import feasible, make_pruner, make_sampler, suggest
from ltsearch.search.trial_seeds import TrialSeeds
from ltsearch.store.ids import identity
from ltsearch.store.records import CellRecord, Epoch, SearchRecord, Status
from ltsearch.study import space as spaces
from ltsearch.study.search import BUDGET, Search
from trainables.errors import UserError
from trainables.files import Location

STOPPED, DROPPED = "stopped_at", "dropped"
JUDGED = "judged_at"
KNOWN = "known"  # its cell was there before the search: it costs nothing, and counts for nothing but what it tells
EXHAUSTED, ENQUEUED, WALL = "exhausted", "enqueued", "wall_seconds"  # of the study
_TRIES = 30  # proposals that were all tried before, until an untried one is picked instead


class SearchStudy:
    """Ask and tell, on top of Optuna."""

    def __init__(
        self,
        plan: Plan,
        folder: Location,
        content: str = "",
        *,
        create: bool = True,
    ) -> None:
        """Create or load the study.

        Its name holds a hash of what is searched and of the data set's ``content`` (its fingerprint): another space or other
        images are another study. With ``create`` False nothing is written; raises ``KeyError`` if it is not there.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Constraints have been set, but CmaEsSampler")  # winners keep to them
        logging.getLogger("optuna").setLevel(logging.ERROR)
        assert plan.loaded.spec.search is not None
        self.plan = plan
        self.search: Search = plan.loaded.spec.search
        self._epochs = plan.search_base.loop.epochs if plan.search_base is not None else 1
        name = f"{plan.loaded.sweep}-{self._hash(content)}"
        backend = journal(folder)
        try:
            storage = JournalStorage(backend)
        except Exception as error:  # logs that are Optuna's one by one, and make no history
            raise damaged(where(folder), f"cannot be replayed ({type(error).__name__}: {error})") from None
        self.study, self.storage = self._open(storage, name, create=create), storage
        self._study_id = storage.get_study_id_from_name(name)
        self._first_with: dict[str, int] = {}  # cell -> the first trial that has it
        for trial in reversed(self._trials()):
            if CELL in trial.user_attrs:
                self._first_with[trial.user_attrs[CELL]] = trial.number
        self.seeds = TrialSeeds(self.search, self.study, self._frozen)
        self.known_choices: Sequence[dict[str, Any]] = ()  # whose cells are there already, of which it is told first
        self._opened: float | None = None  # when this driver first asked
        self.stopped_by = ""
        self.problem = ""  # why the search cannot go on, or what it cannot tell; empty if all is well
        self._resumable: list[int] | None = None  # not looked at before the first ask: another driver may be at work

    def _open(self, storage: JournalStorage, name: str, *, create: bool) -> optuna.Study:
        """Load it, or create it if it is not there; loading writes nothing, which a driver at work elsewhere relies on."""
        options: dict[str, Any] = {
            "storage": storage,
            "sampler": make_sampler(self.search, 0),
            "pruner": make_pruner(self.search, self._epochs),
        }
        try:
            return optuna.load_study(study_name=name, **options)
        except KeyError:
            if not create:
                raise
            up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
            directions = [up if m.mode == "max" else down for m in self.search.metrics]
            return optuna.create_study(study_name=name, directions=directions, **options)

    def _hash(self, content: str) -> str:
        what = {
            "content": content,
            "base": identity(self.plan.search_base) if self.plan.search_base else None,
            "search": self.search.model_dump(
                mode="json", exclude_defaults=True, exclude=BUDGET | {"confirm", "warm_start"}
            ),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _counted(self) -> list[FrozenTrial]:
        """All trials but proposals that were dropped."""
        return [t for t in self._trials() if DROPPED not in t.user_attrs and t.state is not TrialState.WAITING]

    def _paid(self) -> list[FrozenTrial]:
        """Trials that count towards the budget."""
        return [t for t in self._counted() if KNOWN not in t.user_attrs]

    # -- ask -------------------------------------------------------------------------------------------------------------

    def ask(self) -> tuple[int, Cell] | None:
        """The next trial's number and cell; None when the search has spent its budget or tried everything.

        Trials that were running when the driver died come first.
        """
        if self._opened is None:
            self._opened = time.monotonic()
        if self._resumable is None:
            self._resumable = self._left_running()
        if self._resumable:
            number = self._resumable.pop(0)
            if (nth := self.seeds.next(number)) is not None:
                return number, self._cell(number, nth)
            self.seeds.tell_mean(number)  # its driver died before it could
            return self.ask()
        if self._spent():
            return None
        self._enqueue()
        for _ in range(_TRIES):
            asked = self._ask_once()
            if asked is not None:
                return asked
        return self._ask_untried()

    def _enqueue(self) -> None:
        """What is to be tried first, once; a driver that dies meanwhile leaves it to the next one."""
        if not self.study.user_attrs.get(ENQUEUED):
            if not any(CELL in t.user_attrs for t in self._trials()):
                for choice in self.known_choices:
                    self.study.enqueue_trial(choice, user_attrs={KNOWN: True}, skip_if_exists=True)
                for choice in first_choices(self.plan):
                    self.study.enqueue_trial(choice, skip_if_exists=True)
            self.study.set_user_attr(ENQUEUED, True)

    def _left_running(self) -> list[int]:
        """Trials that a dead driver left running; what it was still proposing is dropped."""
        left = self._trials(TrialState.RUNNING)
        for trial in left:
            if CELL not in trial.user_attrs:
                self._drop(trial.number, "proposed by half")
                if fixed := trial.system_attrs.get("fixed_params"):  # it was to be tried first
                    self.study.enqueue_trial(fixed, user_attrs={KNOWN: True} if KNOWN in trial.user_attrs else None)
        return [trial.number for trial in left if CELL in trial.user_attrs]

    def _spent(self) -> bool:
        resources = self.plan.loaded.spec.resources
        if self.study.user_attrs.get(EXHAUSTED):
            self.stopped_by = "every configuration of the space was tried"
        elif why := budget.spent(self.search, resources, self._paid(), self._wall_seconds()):
            self.stopped_by = why
        elif self.search.target is not None:
            self.stopped_by = budget.reached(self.search, self._trials(TrialState.COMPLETE)) or self.stopped_by
        return bool(self.stopped_by)

    def _wall_seconds(self) -> float:
        """How long drivers have run this search, this one included."""
        here = time.monotonic() - self._opened if self._opened is not None else 0.0
        return float(self.study.user_attrs.get(WALL, 0.0)) + here

    def _keep_wall_seconds(self) -> None:
        if self.search.max_wall_hours is not None and self._opened is not None:
            self.study.set_user_attr(WALL, self._wall_seconds())
            self._opened = time.monotonic()

    def change_trials(self, trials: int) -> tuple[int, int]:
        """Another budget for the same search; returns the one before and the one now: not below what was asked for."""
        before, now = self.search.trials, max(trials, len(self._paid()))
        self.search = self.search.model_copy(update={"trials": now})
        self.stopped_by = ""
        return before, now

    def left(self) -> int:
        """Trials that the budget still allows."""
        return max(0, self.search.trials - len(self._paid()))

    def begins(self) -> bool:
        """Was nothing tried yet, nor put down to be tried first?"""
        return not self.study.user_attrs.get(ENQUEUED)

    def is_known(self, number: int) -> bool:
        """Was a trial's cell there before the search?"""
        return KNOWN in self._frozen(number).user_attrs

    def known(self) -> int:
        """Trials that have ended and whose cells were there before the search."""
        return sum(t.state.is_finished() for t in self._counted() if KNOWN in t.user_attrs)

    def is_over(self) -> bool:
        """Budget spent and no trial left running."""
        return not self._trials(TrialState.RUNNING) and self._spent()

    def ended(self) -> int:
        """Trials that have ended, known ones included."""
        return sum(t.state.is_finished() for t in self._counted())

    def _ask_once(self) -> tuple[int, Cell] | None:
        self.study.sampler = make_sampler(self.search, len(self._trials()))
        trial = self.study.ask()
        chosen: dict[str, spaces.Scalar] = {}
        for name in spaces.ordered(self.search.space):
            parameter = self.search.space[name]
            if spaces.active(parameter, chosen):
                chosen[name] = suggest(trial, name, parameter)
        try:
            cell = search_cell(self.plan, chosen)
            check_workers(self.plan.loaded.spec.resources, [cell.config])
        except UserError as error:  # values that are fine one by one and not together
            self._drop(trial.number, str(error))
            return None
        twin = None if self.search.repeat_configurations else self._twin(cell.id, trial.number)
        if twin is not None:
            self._drop(trial.number, twin)
            return None
        trial.set_user_attr(CELL, cell.id)
        self._first_with.setdefault(cell.id, trial.number)
        return trial.number, cell

    def _drop(self, number: int, why: str | int) -> None:
        """A proposal that is not run and does not count."""
        live(self.study, self._frozen(number)).set_user_attr(DROPPED, why)
        self.study.tell(number, state=TrialState.FAIL)

    def _twin(self, cell: str, number: int) -> int | None:
        """The number of an earlier trial with this cell."""
        first = self._first_with.get(cell, number)
        return first if first != number else None

    def _ask_untried(self) -> tuple[int, Cell] | None:
        """For a discrete space of which the sampler proposes what was tried: one of what was not, at random."""
        everything = spaces.combinations(self.search.space)
        if everything is None:
            why = next((t.user_attrs[DROPPED] for t in reversed(self._trials()) if DROPPED in t.user_attrs), "")
            self.problem = f"{_TRIES} proposals in a row could not be run, the last: {why}; narrow search.space"
            self.stopped_by = self.problem
            return None
        left = [c for c in everything if self._id(c) not in {None, *self._first_with}]
        if not left:
            self.study.set_user_attr(EXHAUSTED, True)
            self._spent()
            return None
        number = len(self._trials())
        pick = int(hashlib.sha256(f"{self.search.seed}/untried/{number}".encode()).hexdigest()[:8], 16) % len(left)
        self.study.enqueue_trial(left[pick])
        return self._ask_once()

    def _id(self, chosen: dict[str, spaces.Scalar]) -> str | None:
        try:
            return search_cell(self.plan, chosen).id
        except UserError:
            return None

    def _frozen(self, number: int) -> FrozenTrial:
        return self.storage.get_trial(self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number))

    # -- tell ------------------------------------------------------------------------------------------------------------

    def report(self, number: int, epoch: Epoch, last: bool) -> bool:
        """Tell an epoch's value; True if the trial should stop early.

        An epoch that is told already is not told again. The verdict is kept: a driver that dies between it and the end of the
        trial, or anywhere between the value and the verdict, comes to the same one, at the same epoch, when the epochs are told
        again.
        """
        if self.search.early_stopping is None or len(self.search.metrics) > 1 or self.search.seeds_per_trial > 1:
            return False
        value = epoch.metrics.get(self.search.metrics[0].name)
        frozen = self._frozen(number)
        if STOPPED in frozen.user_attrs:
            return not last and epoch.epoch >= int(frozen.user_attrs[STOPPED])
        told = epoch.epoch in frozen.intermediate_values
        if value is None or (told and epoch.epoch != frozen.last_step):
            return False
        trial = live(self.study, frozen)
        if not told:
            trial.report(value, epoch.epoch)
        if last or epoch.epoch < self.search.early_stopping.grace_epochs:
            return False
        if told and frozen.user_attrs.get(JUDGED) == epoch.epoch:
            return False
        stop = trial.should_prune() or (told and rungs.judged_again(self.search, self.study, frozen, self._epochs))
        if stop:
            trial.set_user_attr(STOPPED, epoch.epoch)
        elif rungs.reached(self._frozen(number)) > rungs.reached(frozen) or told:
            trial.set_user_attr(JUDGED, epoch.epoch)  # a verdict to go on is kept as well: rivals may have come since
        return stop

    def tell(self, number: int, status: Status, record: CellRecord | None) -> Cell | None:
        """How a trial's cell ended; returns the next one of a trial that goes on with another seed.

        Stopped early and diverged trials are PRUNED, those with other failures FAIL.
        """
        frozen = self._frozen(number)
        if frozen.state.is_finished():
            return None
        self._keep_wall_seconds()
        history = record.history if record is not None else []
        seconds, epochs = sum(e.metrics.get("seconds", 0.0) for e in history), history[-1].epoch if history else 0
        self.seeds.add_up(number, seconds, epochs, self._violations(status, history))
        if status is Status.FINISHED:
            values = [history[-1].metrics.get(metric.name) for metric in self.search.metrics]
            if all(value is not None for value in values):
                nth = self.seeds.finished(number, [float(v) for v in values if v is not None])
                return self._cell(number, nth) if nth is not None else None
            lacking = [metric.name for metric, value in zip(self.search.metrics, values, strict=True) if value is None]
            self.problem = f"trial {number} finished without {', '.join(lacking)}; choose another metric"
        answers = (Status.PRUNED, Status.DIVERGED, Status.OUT_OF_MEMORY)  # of the configuration, not of a machine
        pruned = status in answers and len(self.search.metrics) == 1
        self.seeds.end(number, TrialState.PRUNED if pruned else TrialState.FAIL)
        return None

    def _cell(self, number: int, nth: int) -> Cell:
        return search_cell(self.plan, dict(self._frozen(number).params), nth)

    def _violations(self, status: Status, history: list[Epoch]) -> dict[str, float]:
        """A configuration that diverges or needs too much memory answers by that, whatever else it is.

        What a trial that was stopped has not come to measure is not held against it.
        """
        last = history[-1].metrics if history else {}
        found = {"runs": float(status in (Status.DIVERGED, Status.OUT_OF_MEMORY))}
        for one in self.search.constraints:
            if status is Status.FINISHED or (status is Status.PRUNED and one.metric in last):
                found[one.describe()] = one.violation(last.get(one.metric))
        return found

    # -- at the end ------------------------------------------------------------------------------------------------------

    def best(self) -> list[FrozenTrial]:
        """Complete trials that keep to the constraints, best first; of several metrics the Pareto front, by the first."""
        if len(self.search.metrics) > 1:
            trials = self.study.best_trials
        else:
            trials = self._trials(TrialState.COMPLETE)
        sign = -1 if self.search.metrics[0].mode == "max" else 1
        return sorted(filter(feasible, trials), key=lambda t: (sign * t.values[0], t.number))

    def trouble(self) -> str:
        """Why it cannot go on, or has nothing to confirm; empty if all is well."""
        if self.problem or not self.search.constraints or self.best() or not self._trials(TrialState.COMPLETE):
            return self.problem
        beyond = ", ".join(one.describe() for one in self.search.constraints)
        return f"no trial keeps to {beyond}: nothing is confirmed; widen search.space or search.constraints"

    def winners(self) -> list[tuple[FrozenTrial, list[Cell]]]:
        """What ``confirm`` trains."""
        if self.search.confirm is None:
            return []
        chosen = self.best()[: self.search.confirm.top_k]
        return [(trial, confirm_cells(self.plan, dict(trial.params))) for trial in chosen]

    def cells(self) -> list[tuple[int, str]]:
        """Number and cell of every trial that counts."""
        found = []
        for trial in self._counted():
            if CELL in trial.user_attrs:
                found.append((trial.number, trial.user_attrs[CELL]))
                more = range(1, self.seeds.begun(trial))
                found += [(trial.number, search_cell(self.plan, dict(trial.params), nth).id) for nth in more]
        return found

    def cells_left_out(self) -> int:
        """Seeds that trials which are over did without."""
        return sum(self.seeds.not_needed(t.number) for t in self._counted() if t.state.is_finished())

    def cells_ended(self) -> int:
        """How many cells of the search's trials have ended."""
        return self.seeds.ended(self._counted())

    def record(self) -> SearchRecord:
        """``search.json``."""
        return search_record(self)
