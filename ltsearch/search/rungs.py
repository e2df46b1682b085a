"""Verdicts of successive halving on a trial that a dead driver left, found once more."""

from __future__ import annotations

import copy

import optuna
from optuna.trial import FrozenTrial

from ltsearch.search.optuna_internals import live
from ltsearch.search.samplers import make_pruner, rung_epochs
from ltsearch.study.search import Search

_RUNG = "completed_rung_"  # what Optuna's successive halving notes in a trial's system attributes


def reached(trial: FrozenTrial) -> int:
    """How many of ASHA's rungs it has reached."""
    return sum(key.startswith(_RUNG) for key in trial.system_attrs)


def judged_again(search: Search, study: optuna.Study, frozen: FrozenTrial, epochs: int) -> bool:
    """The verdict on a trial's last value, once more; ``epochs``: how many it may train for.

    Optuna notes that a trial has reached a rung before it compares, and never compares there again: of a driver that died
    in between, the note is there and the verdict is not. So it is found in a copy of the study without that note.
    """
    before = max((step for step in frozen.intermediate_values if step != frozen.last_step), default=0)
    epoch_of = rung_epochs(search, study, frozen)
    judged = copy.deepcopy(frozen)
    judged.system_attrs = {
        key: value
        for key, value in frozen.system_attrs.items()
        if not key.startswith(_RUNG) or epoch_of(int(key.removeprefix(_RUNG))) <= before
    }
    # Hyperband's brackets go by the name.
    name, pruner = study.study_name, make_pruner(search, epochs)
    twin = optuna.create_study(study_name=name, directions=study.directions, pruner=pruner)
    trials = study.get_trials(deepcopy=False)
    twin.add_trials([judged if t.number == frozen.number else t for t in trials])
    return live(twin, twin.trials[frozen.number]).should_prune()
