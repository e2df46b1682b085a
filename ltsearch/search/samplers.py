"""Optuna's samplers and pruners, as a study names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import optuna
from optuna.trial import FrozenTrial

from ltsearch.study.search import Search

VIOLATIONS = "violations"  # a trial's attribute: greater than 0 is one


def violations(trial: FrozenTrial) -> list[float]:
    """Whether it diverged or ran out of memory, and how far it is beyond each constraint of the study."""
    return list(trial.user_attrs.get(VIOLATIONS, [0.0]))


def feasible(trial: FrozenTrial) -> bool:
    """Does it keep to all of them?"""
    return all(violation <= 0 for violation in violations(trial))


def make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """For the proposal of trial ``number``, made anew for every one: an interrupted search proposes what it would have."""
    seed = int(hashlib.sha256(f"{search.seed}/{number}".encode()).hexdigest()[:8], 16)
    warm_up = max(5, min(10, search.trials // 4))
    match search.sampler:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(
                seed=seed, n_startup_trials=warm_up, warn_independent_sampling=False, constraints_func=violations
            )
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "nsga2":
            population = max(4, min(50, search.trials // 4))
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population, constraints_func=violations)
        case _:
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, n_startup_trials=warm_up, constraints_func=violations
            )


def make_pruner(search: Search, epochs: int) -> optuna.pruners.BasePruner:
    """Early stopping of trials of so many epochs; before ``grace_epochs`` it is not asked."""
    stopping = search.early_stopping
    if stopping is None:
        return optuna.pruners.NopPruner()
    grace, factor = stopping.grace_epochs, stopping.reduction_factor
    match stopping.rule:
        case "hyperband":
            most = max(epochs, grace)
            return optuna.pruners.HyperbandPruner(min_resource=grace, max_resource=most, reduction_factor=factor)
        case "median":
            return optuna.pruners.MedianPruner(n_startup_trials=stopping.startup_trials)
        case "patience":
            return optuna.pruners.PatientPruner(None, stopping.epochs_without_progress, stopping.min_delta)
        case _:
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor)


def rung_epochs(search: Search, study: optuna.Study, trial: FrozenTrial) -> Callable[[int], int]:
    """The epoch of each of a trial's rungs. Which of Hyperband's brackets a trial is in only its own (private) method tells."""
    stopping = search.early_stopping
    assert stopping is not None
    pruner = study.pruner
    bracket = pruner._get_bracket_id(study, trial) if isinstance(pruner, optuna.pruners.HyperbandPruner) else 0
    return lambda rung: stopping.grace_epochs * stopping.reduction_factor ** (bracket + rung)
