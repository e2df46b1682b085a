"""What becomes of a trial's cells: one, or as many as it has seeds, one after another, whose mean is its value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

import optuna
from optuna.trial import FrozenTrial, TrialState

from ltsearch.search.optuna_internals import live
from ltsearch.search.record import EACH, EPOCHS, SECONDS, VALUES, WORST
from ltsearch.study.search import Search


class TrialSeeds:
    """Of all trials of a search. What a dead driver told by half is told again, and counts once."""

    def __init__(self, search: Search, study: optuna.Study, frozen: Callable[[int], FrozenTrial]) -> None:
        """``frozen``: a trial as the storage has it, by its number."""
        self.number, self.several = search.seeds_per_trial, search.seeds_per_trial > 1
        self.study, self.frozen = study, frozen
        self.one_metric = len(search.metrics) == 1

    def add_up(self, number: int, seconds: float, epochs: int, violations: Mapping[str, float]) -> None:
        """A cell has ended: what its trial has cost so far, and what it violates at worst."""
        frozen = self.frozen(number)
        trial, attributes, worst = live(self.study, frozen), frozen.user_attrs, dict(violations)
        if self.several:
            each = attributes.get(EACH, {}) | {str(_told(frozen)): [seconds, epochs]}
            trial.set_user_attr(EACH, each)
            seconds, epochs = sum(one[0] for one in each.values()), sum(one[1] for one in each.values())
            before = attributes.get(WORST, {})
            worst = {name: max(violation, before.get(name, violation)) for name, violation in worst.items()}
            trial.set_user_attr(WORST, worst)
        trial.set_user_attr(SECONDS, seconds)
        trial.set_user_attr(EPOCHS, epochs)
        if not self.several:
            self._constrain(frozen, worst)

    def finished(self, number: int, values: list[float]) -> int | None:
        """A cell has, with these objectives; which of the seeds comes next, None if the trial is over."""
        if not self.several:
            self.study.tell(number, values)
            return None
        frozen = self.frozen(number)
        trial, all_of_them = live(self.study, frozen), [*frozen.user_attrs.get(VALUES, []), values]
        if self.one_metric:
            trial.report(values[0], len(all_of_them) - 1)
        trial.set_user_attr(VALUES, all_of_them)
        nth = self.next(number)
        if nth is None:
            self.tell_mean(number)
        elif self.one_metric and trial.should_prune():
            self.end(number, TrialState.PRUNED)
            return None
        return nth

    def next(self, number: int) -> int | None:
        """The first of a trial's seeds that was not told of; None if all were."""
        told = _told(self.frozen(number))
        return told if told < self.number else None

    def tell_mean(self, number: int) -> None:
        """All seeds of a trial have finished."""
        columns = zip(*self.frozen(number).user_attrs[VALUES], strict=True)
        self.end(number, None, [fmean(column) for column in columns])

    def end(self, number: int, state: TrialState | None, values: list[float] | None = None) -> None:
        """Tell Optuna."""
        if self.several:
            frozen = self.frozen(number)
            self._constrain(frozen, frozen.user_attrs.get(WORST, {}))
        self.study.tell(number, values, state=state)

    def not_needed(self, number: int) -> int:
        """How many of an ended trial's seeds were not trained."""
        return self.number - len(self.frozen(number).user_attrs.get(EACH, {})) if self.several else 0

    def ended(self, trials: Iterable[FrozenTrial]) -> int:
        """Cells that have ended, of these trials."""
        return sum(self._ended(trial) for trial in trials)

    def begun(self, trial: FrozenTrial) -> int:
        """How many of a trial's cells have begun."""
        return min(self._ended(trial) + (not trial.state.is_finished()), self.number)

    def _ended(self, trial: FrozenTrial) -> int:
        return len(trial.user_attrs.get(EACH, {})) if self.several else int(trial.state.is_finished())

    def _constrain(self, frozen: FrozenTrial, violations: Mapping[str, float]) -> None:
        trial = live(self.study, frozen)
        for name, violation in violations.items():
            if name not in frozen.constraints:  # a driver died after it was told
                trial.set_constraint(name, violation)


def _told(trial: FrozenTrial) -> int:
    """Of how many seeds the search was told that they have finished."""
    return len(trial.user_attrs.get(VALUES, []))
