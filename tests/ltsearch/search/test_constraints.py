"""What is beyond a constraint wins nothing, and the sampler is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.search.samplers import feasible
from ltsearch.store.records import CellRecord, Epoch, Status
from tests.ltsearch.search.test_optuna_study import METRIC, open_study, run
from trainables.errors import UserError


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_what_is_beyond_a_constraint_wins_nothing_and_is_left_alone(sampler: str, tmp_path: Path) -> None:
    """The loss of these trials is their λ2, whose best value 0.6 is forbidden: the samplers that can look below 0.4."""
    over = {"search.sampler": sampler, "search.trials": 20 if sampler == "gp" else 30, "search.early_stopping": None}
    over["search.constraints"] = [{"metric": "train/loss", "max": 0.4}]
    study = open_study(tmp_path, **over)
    done = run(study)
    (winner, _), *_ = study.winners()
    assert winner.params["method.lambda_inter"] <= 0.4 and all(map(feasible, study.best()))
    late = [params["method.lambda_inter"] <= 0.4 for _, params, _ in done[12:]]
    assert sampler in ("random", "nsga2") or sum(late) > len(late) * 0.6  # 0.4 of them by chance


def test_nothing_that_keeps_to_it_is_a_problem_that_is_told(tmp_path: Path) -> None:
    over = {"search.trials": 3, "search.early_stopping": None}
    study = open_study(tmp_path, **over, **{"search.constraints": [{"metric": "seconds", "max": 0.5}]})
    run(study)
    assert study.best() == [] and study.winners() == []
    assert study.problem == "" and study.trouble().startswith("no trial keeps to seconds ≤ 0.5: nothing is confirmed")


def test_a_stopped_trial_is_not_held_to_what_it_has_not_measured(tmp_path: Path) -> None:
    constraints = [{"metric": "cost/step_gmacs", "max": 1.0}, {"metric": "train/loss", "max": 0.4}]
    study = open_study(tmp_path, **{"search.constraints": constraints})
    asked = study.ask()
    assert asked is not None
    history = [Epoch(epoch=1, metrics={"train/loss": 0.5})]
    study.tell(
        asked[0], Status.PRUNED, CellRecord(cell="c", config={}, recipes={}, status=Status.PRUNED, history=history)
    )
    assert study._frozen(asked[0]).constraints == {"runs": 0.0, "train/loss ≤ 0.4": pytest.approx(0.1)}


@pytest.mark.parametrize("sampler", ["random", "nsga2"])
def test_a_front_is_of_what_keeps_to_them(sampler: str, tmp_path: Path) -> None:
    """One trial better than all in both metrics, and beyond the constraint."""
    metrics = [{"name": METRIC}, {"name": "train/loss", "mode": "min"}]
    over = {"search.metrics": metrics, "search.sampler": sampler, "search.early_stopping": None, "search.trials": 3}
    study = open_study(tmp_path, **over, **{"search.constraints": [{"metric": "seconds", "max": 1}]})
    for value, seconds in ((0.9, 2.0), (0.5, 1.0), (0.4, 1.0)):
        asked = study.ask()
        assert asked is not None
        last = Epoch(epoch=9, metrics={METRIC: value, "train/loss": 1 - value, "seconds": seconds})
        record = CellRecord(cell="c", config={}, recipes={}, status=Status.FINISHED, history=[last])
        study.tell(asked[0], Status.FINISHED, record)
    assert [trial.values[0] for trial in study.best()] == [0.5] and study.trouble() == ""


@pytest.mark.parametrize(
    ("constraint", "says"),
    [
        ({"metric": "seconds"}, "must have exactly one of max and min"),
        ({"metric": "seconds", "max": 1, "min": 0}, "must have exactly one of max and min"),
        ({"metric": "test/single_top1", "min": 0.1}, "a search never sees the test set"),
        ({"metric": "second", "max": 1}, "search.constraints: metric = 'second': did you mean 'seconds'"),
    ],
)
def test_a_wrong_constraint_is_refused(constraint: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        open_study(tmp_path, **{"search.constraints": [constraint]})
