"""All that is used of Optuna and that Optuna does not promise: what for, and why nothing public does it.

``pyproject.toml`` bounds its version to those that were tried; ``tests/ltsearch/search/test_optuna_internals.py`` says which
piece an upgrade has changed.
"""

from __future__ import annotations

import optuna
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, BaseJournalFileLock, get_lock_file
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, Trial

REPORT = int(JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE)  # a log's ``op_code``: the value of an epoch
__all__ = ["REPORT", "LOCK_FILE_SUFFIX", "BaseJournalFileLock", "bracket", "get_lock_file", "live"]


def live(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """A trial that goes on in another process than it was asked for in: ``Study.ask`` makes new ones only."""
    return Trial(study, frozen._trial_id)


def bracket(pruner: optuna.pruners.BasePruner, study: optuna.Study, trial: FrozenTrial) -> int:
    """Which of Hyperband's brackets a trial is in, by which its sampler looks at others; 0 for other pruners."""
    return pruner._get_bracket_id(study, trial) if isinstance(pruner, optuna.pruners.HyperbandPruner) else 0
