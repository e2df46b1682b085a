"""``resources: auto`` before Ray is asked for anything: what is refused, and how many trials are left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.run.packs import _search_left, resolve
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError


def planned(tmp_path: Path, **over: Any) -> tuple[Plan, outstanding.Work, CellStore]:
    tree = study() | {"resources": "auto"} | over
    tree["base"] = {k: v for k, v in tree["base"].items() if k != "synthetic"}
    plan, store = make_plan(load(write(tmp_path, tree))), CellStore(tmp_path / "store")
    return plan, outstanding.look(plan, store, tmp_path, fresh=False, retry=False, say=print), store


@pytest.mark.parametrize(
    ("nodes", "growing", "message"),
    [
        ({}, None, "there is none with room for one yet: start one first, or set resources.cpus_per_worker"),
        ({"head": {"CPU": 0.0}}, None, "none with room for one"),
        (
            {"head": {"CPU": 8.0}},
            {},
            "none with GPUs, which it may get,",
        ),  # KubeRay, which tells nothing of what it may have
        (
            {"head": {"CPU": 8.0}},
            {"max_workers": 1, "available_node_types": {"gpu": {"resources": {"CPU": 8, "GPU": 1}}}},
            "none with GPUs, which it may get,",
        ),
    ],
)
def test_no_node_to_time_on(nodes: Any, growing: Any, message: str, tmp_path: Path) -> None:
    plan, work, store = planned(tmp_path)
    with pytest.raises(UserError, match=message):
        resolve(plan, work, store, nodes, print, growing)


def test_a_study_that_says_what_trials_hold_stays_as_it_is(tmp_path: Path) -> None:
    plan, work, store = planned(tmp_path, resources={"cpus_per_worker": 3})
    assert resolve(plan, work, store, {}, print) is plan


def test_trials_of_a_search_that_are_still_to_come(tmp_path: Path) -> None:
    plan, work, store = planned(tmp_path)
    search = plan.loaded.spec.search
    assert search is not None and search.trials > 2 and _search_left(plan, work) == search.trials
    work.study = made = SearchStudy(plan, store.sweep_folder(plan.loaded.sweep))
    asked = made.ask()
    assert asked is not None
    made.tell(asked[0], Status.FAILED, None)
    assert _search_left(plan, work) == search.trials - 1
    made.change_trials(1)
    assert made.is_over() and _search_left(plan, work) == 0
