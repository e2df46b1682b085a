"""A search as its record: what ``search.json`` holds and a report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
from optuna.trial import FrozenTrial, TrialState

from ltsearch.store.records import ConfirmedTrial, PlannedCell, SearchRecord, SearchTrial

if TYPE_CHECKING:
    from ltsearch.search.optuna_study import SearchStudy

# A trial's attributes. Of several seeds, ``VALUES`` has the objectives of each that has finished, the others add up.
VALUES, EACH, WORST = "values", "seconds_of_each", "worst"
CELL, SECONDS, EPOCHS = "cell", "seconds", "epochs"


def search_record(search: SearchStudy) -> SearchRecord:
    """``search.json``."""
    names = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    trials = [
        SearchTrial(
            number=t.number,
            params=dict(t.params),
            values=list(t.values) if t.values is not None else _last_value(t),
            state=names.get(t.state, "running"),
            epochs=t.user_attrs.get(EPOCHS, 0),
            cell=t.user_attrs.get(CELL, ""),
            seconds=t.user_attrs.get(SECONDS, 0.0),
        )
        for t in search._counted()
    ]
    stopping = search.search.early_stopping
    return SearchRecord(
        metrics=[m.name for m in search.search.metrics],
        directions=[m.mode for m in search.search.metrics],
        sampler=search.search.sampler,
        early_stopping=stopping.describe() if stopping else "none",
        space={name: parameter.describe() for name, parameter in search.search.space.items()},
        trials=trials,
        importances=_importances(search),
        best=[t.number for t in search.best()],
        confirmed=[
            ConfirmedTrial(
                number=trial.number,
                params=dict(trial.params),
                values=list(trial.values),
                cells=[PlannedCell(cell=c.id, seed=c.seed) for c in cells],
            )
            for trial, cells in search.winners()
        ],
        stopped_by=search.stopped_by,
    )


def _importances(search: SearchStudy) -> dict[str, dict[str, float]]:
    """fANOVA over complete trials, by metric; empty where there are too few or only one value."""
    found: dict[str, dict[str, float]] = {}
    if len(search._trials(TrialState.COMPLETE)) < 4:
        return found
    for i, metric in enumerate(search.search.metrics):
        try:
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=search.search.seed)
            target = (lambda t, i=i: t.values[i]) if len(search.search.metrics) > 1 else None
            values = optuna.importance.get_param_importances(search.study, evaluator=evaluator, target=target)
        except (ValueError, RuntimeError):  # no variance, or no parameter that all trials share
            continue
        found[metric.name] = {name: float(value) for name, value in values.items()}
    return found


def _last_value(trial: FrozenTrial) -> list[float] | None:
    return [trial.intermediate_values[max(trial.intermediate_values)]] if trial.intermediate_values else None
