"""When a search has had enough: trials, hours of training, GPU-hours, hours by the clock, or a value that was to be reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna.trial import FrozenTrial, TrialState

from ltsearch.search.record import SECONDS
from ltsearch.search.samplers import feasible
from ltsearch.study.search import Search
from ltsearch.study.spec import Resources


def spent(search: Search, resources: Resources, paid: Sequence[FrozenTrial], wall_seconds: float) -> str:
    """What has ended the search; empty if nothing has. ``paid``: trials that count; ``wall_seconds``: by the clock."""
    hours = sum(t.user_attrs.get(SECONDS, 0.0) for t in paid) / 3600
    gpu_hours = hours * resources.workers * resources.gpus_per_worker
    if len(paid) >= search.trials:
        return f"{search.trials} trials"
    if search.max_hours is not None and hours >= search.max_hours:
        return f"{search.max_hours:g} hours of training"
    if search.max_gpu_hours is not None and gpu_hours >= search.max_gpu_hours:
        return f"{search.max_gpu_hours:g} GPU-hours"
    if search.max_wall_hours is not None and wall_seconds / 3600 >= search.max_wall_hours:
        return f"{search.max_wall_hours:g} hours since it began"
    return ""


def reached(search: Search, trials: Iterable[FrozenTrial]) -> str:
    """Which target a complete trial has reached; empty if none has."""
    sign = 1 if search.metrics[0].mode == "max" else -1
    for trial in trials if search.target is not None else ():
        assert trial.state is TrialState.COMPLETE and trial.values is not None and search.target is not None
        if feasible(trial) and sign * trial.values[0] >= sign * search.target:
            return f"{search.metrics[0].name} reached {search.target:g}"
    return ""
