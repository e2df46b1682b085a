"""Whether Optuna still is as ``optuna_internals`` takes it to be; what these say is what an upgrade has changed."""

from __future__ import annotations

import optuna
from optuna.pruners import HyperbandPruner, NopPruner

from ltsearch.search import optuna_internals


def test_a_trial_goes_on_by_its_number_in_the_storage() -> None:
    study = optuna.create_study()
    study.ask().report(0.5, step=1)
    trial = optuna_internals.live(study, study.trials[0])
    trial.report(0.25, step=2)
    assert trial.number == 0 and study.trials[0].intermediate_values == {1: 0.5, 2: 0.25}


def test_hyperband_tells_a_trials_bracket() -> None:
    pruner = HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    study = optuna.create_study(pruner=pruner)
    for _ in range(12):
        trial = study.ask()
        trial.report(0.5, step=1)
        trial.should_prune()
    brackets = {optuna_internals.bracket(pruner, study, trial) for trial in study.trials}
    assert len(brackets) > 1, "Hyperband puts trials into several brackets by their numbers"
    assert optuna_internals.bracket(NopPruner(), study, study.trials[0]) == 0


def test_the_journals_lock_is_one_that_can_be_given() -> None:
    assert {"acquire", "release"} <= set(dir(optuna_internals.BaseJournalFileLock))
    assert callable(optuna_internals.get_lock_file) and isinstance(optuna_internals.LOCK_FILE_SUFFIX, str)
