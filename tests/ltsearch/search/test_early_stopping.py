"""Median, patience and Hyperband; ASHA is in ``test_optuna_study``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.search import rungs
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.records import CellRecord, Epoch, Status
from tests.ltsearch.search.test_optuna_study import METRIC, open_study
from trainables.errors import UserError


def curve(study: SearchStudy, values: list[float]) -> int:
    """The epoch after which a trial of these values is stopped; their number if it is not."""
    asked = study.ask()
    assert asked is not None
    number, _ = asked
    history = [Epoch(epoch=e, metrics={METRIC: value, "seconds": 1.0}) for e, value in enumerate(values, start=1)]
    for epoch in history:
        if study.report(number, epoch, last=epoch.epoch == len(values)):
            assert study.report(number, epoch, last=False)  # told again, it says the same
            study.tell(number, Status.PRUNED, None)
            return epoch.epoch
    record = CellRecord(cell="c", config={}, recipes={}, status=Status.FINISHED, history=history)
    study.tell(number, Status.FINISHED, record)
    return len(values)


def test_median(tmp_path: Path) -> None:
    """Below the median of those that have finished, at the same epoch; not before the grace, nor before so many have ended."""
    rule = {"rule": "median", "grace_epochs": 3, "startup_trials": 3}
    study = open_study(tmp_path, **{"search.early_stopping": rule})
    good, bad = [0.5] * 9, [0.1] * 9
    assert [curve(study, values) for values in (bad, good, good)] == [9, 9, 9]  # the first three
    assert [curve(study, values) for values in (bad, good)] == [3, 9]


def test_patience(tmp_path: Path) -> None:
    rule = {"rule": "patience", "epochs_without_progress": 2, "grace_epochs": 1}
    study = open_study(tmp_path, **{"search.early_stopping": rule})
    assert curve(study, [0.1, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4]) == 4  # two epochs below the second
    assert curve(study, [0.1 * e for e in range(9)]) == 9


def test_hyperband(tmp_path: Path) -> None:
    """Its brackets begin to stop at different epochs; nothing is stopped between rungs, and a trial better than all never."""
    rule = {"rule": "hyperband", "grace_epochs": 1, "reduction_factor": 3}
    study = open_study(tmp_path, **{"search.early_stopping": rule, "search.trials": 40})
    ends = [curve(study, [number / 100] * 9) for number in range(40, 0, -1)]
    assert ends[0] == 9 and set(ends) == {1, 3, 9} and ends.count(1) > ends.count(9)


def test_a_verdict_of_hyperband_survives_the_driver(tmp_path: Path) -> None:
    """Dead between the note that a rung was reached and the verdict: found again, in the same bracket."""
    rule = {"rule": "hyperband", "grace_epochs": 1, "reduction_factor": 3}
    over = {"search.early_stopping": rule, "search.trials": 40}
    study = open_study(tmp_path, **over)
    for number in range(40, 20, -1):
        curve(study, [number / 100] * 9)
    for _ in range(10):
        asked = study.ask()
        assert asked is not None
        number, value = asked[0], Epoch(epoch=1, metrics={METRIC: 0.01})
        if study.report(number, value, last=False):
            assert rungs.judged_again(
                study.search, study.study, study._frozen(number), study._epochs
            )  # the note is there; the verdict is found without it
            return
        study.tell(number, Status.FAILED, None)
    pytest.fail("no trial in ten was in the first bracket")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"rule": "median", "reduction_factor": 2}, "reduction_factor goes with rule asha or hyperband, not 'median'"),
        ({"startup_trials": 2}, "startup_trials goes with rule median, not 'asha'"),
        ({"rule": "bandit"}, "rule = 'bandit': known: asha, hyperband, median, patience"),
    ],
)
def test_options_of_another_rule_are_refused(rule: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        open_study(tmp_path, **{"search.early_stopping": rule})
