"""Optuna's samplers, suggestions and pruners, as a study names them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial

from ltsearch.search import optuna_internals
from ltsearch.study import space as spaces
from ltsearch.study.search import Search


def feasible(trial: FrozenTrial) -> bool:
    """Does it keep to every constraint that it was told with?"""
    return all(violation <= 0 for violation in trial.constraints.values())


def make_sampler(search: Search, number: int) -> optuna.samplers.BaseSampler:
    """For the proposal of trial ``number``, made anew for every one: an interrupted search proposes what it would have."""
    seed = int(hashlib.sha256(f"{search.seed}/{number}".encode()).hexdigest()[:8], 16)
    warm_up = max(5, min(10, search.trials // 4))
    match search.sampler:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=warm_up, warn_independent_sampling=False)
        case "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        case "nsga2":
            population = max(4, min(50, search.trials // 4))
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
        case _:
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=warm_up)


def suggest(trial: Trial, name: str, parameter: spaces.Parameter) -> spaces.Scalar:
    """A trial's value of one parameter of the space."""
    if parameter.uniform is not None:
        return trial.suggest_float(name, *parameter.uniform, step=parameter.step)
    if parameter.loguniform is not None:
        return trial.suggest_float(name, *parameter.loguniform, log=True)
    if parameter.int_ is not None:
        return trial.suggest_int(name, *parameter.int_)
    value: Any = trial.suggest_categorical(name, parameter.choice or [])
    chosen: spaces.Scalar = value
    return chosen


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
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(p_threshold=stopping.p_threshold)
        case "patience":
            return optuna.pruners.PatientPruner(None, stopping.epochs_without_progress - 1, stopping.min_delta)
        case _:
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=grace, reduction_factor=factor)


def rung_epochs(search: Search, study: optuna.Study, trial: FrozenTrial) -> Callable[[int], int]:
    """The epoch of each of a trial's rungs. Which of Hyperband's brackets a trial is in only its own (private) method tells."""
    stopping = search.early_stopping
    assert stopping is not None
    pruner = study.pruner
    bracket = optuna_internals.bracket(pruner, study, trial)
    return lambda rung: stopping.grace_epochs * stopping.reduction_factor ** (bracket + rung)
