"""``search.enqueue``: the base's own setting first, then what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import first_choices
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study as make_study
from tests.ltsearch.helpers import write
from tests.ltsearch.search.test_optuna_study import open_study
from trainables.errors import UserError


def asked(tmp_path: Path, count: int, **over: Any) -> list[dict[str, Any]]:
    search = open_study(tmp_path, **over)
    numbers = [ask[0] for _ in range(count) if (ask := search.ask()) is not None]
    return [dict(search._frozen(number).params) for number in numbers]


def test_the_bases_setting_is_tried_first_then_what_is_written(tmp_path: Path) -> None:
    first = {"method.beta": 0.3, "method.lambda_inter": 0.6}
    written = {"method.beta": 0.9}  # the other one is proposed
    got = asked(tmp_path, 3, **{"search.enqueue": [written, "base"]})
    assert got[0] == first and got[1]["method.beta"] == 0.9 and 0 <= got[1]["method.lambda_inter"] <= 1
    assert got[2] != first


def test_a_base_outside_of_the_space_is_left_out(tmp_path: Path) -> None:
    over = {"search.enqueue": ["base"], "search.space": {"method.beta": {"uniform": [0.5, 1.0]}}}
    assert first_choices(open_study(tmp_path, **over).plan) == []
    assert asked(tmp_path, 1, **over)[0]["method.beta"] >= 0.5


def test_a_driver_that_dies_before_its_first_trial_enqueues_once(tmp_path: Path) -> None:
    over = {"search.enqueue": ["base", {"method.beta": 0.9, "method.lambda_inter": 0.1}]}
    search = open_study(tmp_path, **over)
    search.study.enqueue_trial(first_choices(search.plan)[0])  # and dead
    got = asked(tmp_path, 3, **over)
    assert [params["method.beta"] for params in got[:2]] == [0.3, 0.9] and got[2] not in got[:2]
    assert len(open_study(tmp_path, **over).study.trials) == 3


def test_a_choice_that_a_dead_driver_had_just_asked_for_is_tried(tmp_path: Path) -> None:
    over = {"search.enqueue": ["base"]}
    study = open_study(tmp_path, **over)
    study._enqueue()
    study.study.ask()  # and dead, before it said which cell that is
    (params,) = asked(tmp_path, 1, **over)
    assert params == {"method.beta": 0.3, "method.lambda_inter": 0.6}


def test_a_base_lies_in_a_space_of_whole_numbers_too(tmp_path: Path) -> None:
    """``1`` and ``1.0`` are one value; ``true`` is another."""
    over = {"search.enqueue": ["base"], "search.space": {"method.beta": {"choice": [0, 0.5, 1]}}}
    plan = open_study(tmp_path, **over, **{"base.method.beta": 1}).plan
    assert first_choices(plan) == [{"method.beta": 1}]


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"method.betta": 0.5}, r"search.enqueue\[0\]: no parameter 'method.betta'; did you mean 'method.beta'"),
        ({"method.beta": 1.5}, r"method.beta = 1.5: not in its space \(uniform \[0, 1\]\)"),
        ({"method.beta": True}, "method.beta = True: not in its space"),
    ],
)
def test_a_choice_that_cannot_be_tried_is_refused(choice: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        make_plan(load(write(tmp_path, make_study(**{"search.enqueue": [choice]}))))
