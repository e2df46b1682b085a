"""Optuna's samplers and pruners, as a study names them."""

from __future__ import annotations

import hashlib

import optuna

from ltsearch.study.spec import Search


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
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, min(50, search.trials // 4)))
        case _:
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=warm_up)


def make_pruner(search: Search) -> optuna.pruners.BasePruner:
    """Early stopping."""
    asha = search.early_stopping
    if asha is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=asha.grace_epochs, reduction_factor=asha.reduction_factor
    )
