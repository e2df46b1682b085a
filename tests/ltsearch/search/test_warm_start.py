"""A search is told of cells that the storage has already, and its budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import search_cell
from ltsearch.run import outstanding
from ltsearch.run.queue import Queue
from ltsearch.search import optuna_study
from ltsearch.store.cells import CellStore
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study as make_study
from tests.ltsearch.helpers import write
from tests.ltsearch.run.test_queue import Events, drain
from tests.ltsearch.search.test_optuna_study import open_study, run
from trainables.config import TrialConfig
from trainables.errors import UserError


def queue_of(folder: Path, tree: dict[str, Any]) -> Queue:
    """As a driver that begins makes it."""
    plan, store = make_plan(load(write(folder, tree, f"{tree['name']}.yaml"))), CellStore(folder / "store")
    work = outstanding.look(plan, store, folder, fresh=False, retry=False, say=print)
    outstanding.begin(plan, work, store, folder, say=print)
    return Queue(plan, store, work.study, [Events()], lambda record: False)


def searched(name: str, **over: Any) -> dict[str, Any]:
    plain = {"search.trials": 4, "search.early_stopping": None, "search.confirm": None}
    tree = make_study(**plain, **over)
    del tree["ablation"]
    return {**tree, "name": name}


def test_a_search_is_told_of_what_an_earlier_one_trained_in_its_space(tmp_path: Path) -> None:
    first = queue_of(tmp_path, searched("first"))
    drain(first, first.store)
    assert first.study is not None
    params = {t.number: t.params for t in first.study.study.trials}

    narrow = searched("second", **{"search.warm_start": True})
    low = sorted(p["method.beta"] for p in params.values())[1]  # two of the four lie in its space
    narrow["search"]["space"]["method.beta"] = {"uniform": [0, low]}
    second = queue_of(tmp_path, narrow)
    trained = drain(second, second.store)
    study = second.study
    assert study is not None and len(trained) == 4  # all of its budget
    told = [t for t in study.study.trials if optuna_study.KNOWN in t.user_attrs]
    assert [t.number for t in told] == [0, 1] and all(t.state.name == "COMPLETE" for t in told)
    assert all(t.params in params.values() and t.params["method.beta"] <= low for t in told)
    assert (study.known(), study.ended()) == (2, 6) and study.is_over()
    assert len(study.record().trials) == 6

    again = queue_of(tmp_path, narrow)  # told once
    assert again.next() is None and again.exhausted and again.study.known() == 2


def test_a_driver_that_dies_before_its_first_trial_is_told_all_the_same(tmp_path: Path) -> None:
    first = queue_of(tmp_path, searched("first"))
    drain(first, first.store)
    warm = searched("second", **{"search.warm_start": True, "search.enqueue": ["base"]})
    assert queue_of(tmp_path, warm).study is not None  # and dead, as in a long ablation
    half = queue_of(tmp_path, warm).study
    half.study.enqueue_trial(half.known_choices[0], user_attrs={optuna_study.KNOWN: True})  # and dead again
    third = queue_of(tmp_path, warm)
    assert len(drain(third, third.store)) == 4
    assert third.study.known() == 4 and len(third.study.study.trials) == 8
    tried = [t.params for t in third.study.study.trials if optuna_study.KNOWN not in t.user_attrs]
    assert tried[0] == {"method.beta": 0.3, "method.lambda_inter": 0.6}  # the base's own setting, first


def test_a_known_choice_that_was_being_asked_for_stays_one(tmp_path: Path) -> None:
    first = queue_of(tmp_path, searched("first"))
    drain(first, first.store)
    warm = searched("second", **{"search.warm_start": True})
    study = queue_of(tmp_path, warm).study
    study._enqueue()
    study.study.ask()  # and dead, before it said which cell that is
    again = queue_of(tmp_path, warm)
    assert len(drain(again, again.store)) == 4 and again.study.known() == 4


def test_without_it_a_search_begins_with_nothing(tmp_path: Path) -> None:
    first = queue_of(tmp_path, searched("first"))
    drain(first, first.store)
    second = queue_of(tmp_path, searched("second", **{"search.seed": 5}))
    assert len(drain(second, second.store)) == 4 and second.study.known() == 0


def test_cells_of_other_configurations_are_passed_over(tmp_path: Path) -> None:
    plan = open_study(tmp_path).plan
    inside = search_cell(plan, {"method.beta": 0.25, "method.lambda_inter": 0.5}).config
    others = [
        inside.model_copy(update={"seed": 3}),
        TrialConfig.model_validate({"data": {"name": "digits"}, "method": {"name": "ce"}}),
    ]
    from ltsearch.plan.searched import known_choices

    assert known_choices(plan, [*others, inside]) == [{"method.beta": 0.25, "method.lambda_inter": 0.5}]


def test_budgets_of_gpu_hours_and_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"search.early_stopping": None, "search.trials": 40}
    two = {"resources.workers": 1, "resources.gpus_per_worker": 2}
    gpus = open_study(tmp_path / "g", **plain, **two, **{"search.max_gpu_hours": 40 / 3600})
    assert len(run(gpus)) == 3  # 9 seconds each on two GPUs: the third ends after 54
    assert gpus.stopped_by.endswith("GPU-hours")

    now = [0.0]
    monkeypatch.setattr(optuna_study.time, "monotonic", lambda: now[0])
    clock = {**plain, "search.max_wall_hours": 1.0}
    study = open_study(tmp_path / "w", **clock)
    now[0] += 1e6  # the ablation before it: that does not count
    for minutes in (20, 20):
        run(study, stop_after=1)
        now[0] += 60 * minutes
    run(study, stop_after=1)
    now[0] += 1e6  # the driver was away: that does not count
    study = open_study(tmp_path / "w", **clock)
    assert len(run(study, stop_after=1)) == 1
    now[0] += 60 * 21
    assert study.ask() is None and study.stopped_by == "1 hours since it began"
    assert open_study(tmp_path / "w", **{**clock, "search.max_wall_hours": 2.0}).ask() is not None  # goes on


def test_gpu_hours_without_gpus_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="search.max_gpu_hours = 1.0 goes with resources.gpus_per_worker"):
        load(write(tmp_path, make_study(**{"search.max_gpu_hours": 1.0})))


def test_rows_of_a_higher_priority_are_trained_first(tmp_path: Path) -> None:
    tree = make_study(**{"search": None, "seeds": 2})
    rows = [("a", {}), ("b", {"priority": 1}), ("c", {}), ("d", {"priority": 1})]
    beta = {name: 0.1 * i for i, (name, _) in enumerate(rows)}
    tree["ablation"] = {"rows": [{"name": n, "set": {"method.beta": beta[n]}, **more} for n, more in rows]}
    plan = make_plan(load(write(tmp_path, tree)))
    label = {cell.id: f"{row.name}{cell.seed}" for row in plan.rows for cell in row.cells}
    assert [label[cell.id] for cell in plan.cells] == ["b0", "d0", "b1", "d1", "a0", "c0", "a1", "c1"]
