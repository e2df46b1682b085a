"""A trial that is the mean over several seeds: its value, its budget, Wilcoxon's test between seeds, and going on."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.run.queue import Queue
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study as make_study
from tests.ltsearch.helpers import write
from tests.ltsearch.run.test_queue import Events, drain, make
from tests.ltsearch.search.test_optuna_study import METRIC, open_study
from trainables.errors import UserError

SEEDS = {"search.seeds_per_trial": 3, "search.early_stopping": None, "search.trials": 2, "search.confirm": None}


def tell(study: SearchStudy, number: int, cell: Any, value: float, **more: float) -> Any:
    epochs = [Epoch(epoch=1, metrics={METRIC: value, "seconds": 1.0, **more})]
    record = CellRecord(cell=cell.id, config={}, recipes={}, status=Status.FINISHED, history=epochs)
    return study.tell(number, Status.FINISHED, record)


def test_a_trial_is_the_mean_over_its_seeds(tmp_path: Path) -> None:
    study = open_study(tmp_path, **SEEDS)
    number, cell = study.ask()
    cells, values = [cell], [0.5, 0.25, 0.75]
    for value in values:
        following = tell(study, number, cells[-1], value)
        if following is not None:
            cells.append(following)
    assert [c.seed for c in cells] == [1000, 1001, 1002] and following is None
    assert len({c.config.model_copy(update={"seed": 0}).model_dump_json() for c in cells}) == 1
    (trial,) = study.record().trials
    assert (trial.values, trial.seconds, trial.epochs, trial.state) == ([fmean(values)], 3.0, 3, "finished")
    assert study.cells() == [(0, c.id) for c in cells] and study.cells_ended() == 3
    assert len(study._paid()) == 1  # one trial of the budget


def test_the_queue_trains_one_seed_after_another(tmp_path: Path) -> None:
    tree = {key: value for key, value in SEEDS.items() if key != "search.early_stopping"}
    _, store, queue, _ = make(tmp_path, **{**tree, "search.early_stopping": None})
    trained = [cell for stage, cell in drain(queue, queue.store) if stage == "search"]
    assert [(number, cell) for number, cell in queue.study.cells()] == list(
        zip([0, 0, 0, 1, 1, 1], trained, strict=True)
    )
    assert [queue.store.read(cell).config["seed"] for cell in trained] == [1000, 1001, 1002] * 2
    assert [queue.ended[cell].label for cell in trained[:2]] == ["trial 0 · seed 1000", "trial 0 · seed 1001"]
    assert queue.exhausted and [t.state for t in queue.study.record().trials] == ["finished"] * 2


def test_a_driver_that_dies_goes_on_with_the_seed_that_it_was_at(tmp_path: Path) -> None:
    study = open_study(tmp_path, **SEEDS)
    number, cell = study.ask()
    second = tell(study, number, cell, 0.5)
    again = open_study(tmp_path, **SEEDS)
    assert again.ask() == (number, second)
    third = tell(again, number, second, 0.7)
    # Told of all seeds, and dead before the mean was.
    again.study.tell = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt())  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        tell(again, number, third, 0.9)
    last = open_study(tmp_path, **SEEDS)
    assert last.ask()[0] == number + 1
    assert last.study.trials[number].values == [pytest.approx(0.7)]


def test_wilcoxon_stops_what_is_worse_than_the_best_seed_by_seed(tmp_path: Path) -> None:
    over = {**SEEDS, "search.seeds_per_trial": 8, "search.early_stopping": {"rule": "wilcoxon"}}
    study = open_study(tmp_path, **over)
    number, cell = study.ask()
    while cell is not None:
        cell = tell(study, number, cell, 0.8 + 0.01 * (cell.seed - 1000))
    number, cell = study.ask()
    trained = 0
    while cell is not None:
        trained += 1
        cell = tell(study, number, cell, 0.3 + 0.013 * (cell.seed - 1000))
    assert 3 <= trained < 8  # not before the test can tell
    assert study.study.trials[1].state is optuna.trial.TrialState.PRUNED
    assert study.seeds.not_needed(number) == 8 - trained and study.cells_ended() == 8 + trained


def test_a_seed_that_fails_ends_the_trial(tmp_path: Path) -> None:
    study = open_study(tmp_path, **SEEDS)
    number, cell = study.ask()
    second = tell(study, number, cell, 0.5)
    record = CellRecord(cell=second.id, config={}, recipes={}, status=Status.DIVERGED)
    assert study.tell(number, Status.DIVERGED, record) is None
    trial = study.study.trials[number]
    assert trial.state is optuna.trial.TrialState.PRUNED and trial.constraints["runs"] == 1.0
    assert study.seeds.not_needed(number) == 1


def test_constraints_hold_for_the_worst_seed(tmp_path: Path) -> None:
    study = open_study(tmp_path, **SEEDS, **{"search.constraints": [{"metric": "seconds", "max": 5}]})
    number, cell = study.ask()
    for seconds in (1.0, 9.0, 2.0):
        cell = tell(study, number, cell, 0.5, seconds=seconds)
    assert study.study.trials[number].constraints == {"runs": 0.0, "seconds ≤ 5": 4.0}
    assert study.best() == []


def test_what_is_counted_is_the_same_after_a_restart(tmp_path: Path) -> None:
    """Of eight seeds, the second trial needs fewer: cells that are not trained are not waited for."""
    tree = make_study(**{**SEEDS, "search.seeds_per_trial": 8, "ablation": None})
    tree["search"]["early_stopping"] = {"rule": "wilcoxon"}
    tree["search"]["enqueue"] = [{"method.beta": beta, "method.lambda_inter": 0.6} for beta in (0.3, 0.9)]
    plan, store, events = make_plan(load(write(tmp_path, tree))), CellStore(tmp_path / "store"), Events()
    counted: list[int] = []
    events.planned = counted.append  # type: ignore[method-assign]
    queue = Queue(plan, store, SearchStudy(plan, store.sweep_folder("synthetic")), [events], lambda record: False)
    trained = drain(queue, store)
    left_out = 16 - len(trained)
    assert 0 < left_out < 8 and sum(counted) == -left_out
    again = SearchStudy(plan, store.sweep_folder("synthetic"))
    assert outstanding.count(plan, again, store) == (len(trained), len(trained))
    raised = make_plan(load(write(tmp_path, {**tree, "search": {**tree["search"], "trials": 3}})))
    more = SearchStudy(raised, store.sweep_folder("synthetic"))
    assert outstanding.count(raised, more, store) == (len(trained) + 8, len(trained))


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"search.seeds_per_trial": 3}, "seeds_per_trial = 3 trains every seed to its end: set early_stopping to"),
        ({"search.early_stopping": {"rule": "wilcoxon", "grace_epochs": 2}}, "goes with rule asha or hyperband"),
        (
            {"search.early_stopping.rule": "wilcoxon"},
            "p_threshold = 0.1 it can stop one from seeds_per_trial = 5 on, not 1",
        ),
        ({**SEEDS, "search.warm_start": True}, "warm_start goes with seeds_per_trial = 1"),
        ({**SEEDS, "search.confirm": {"seeds": [1002]}}, "trial_seed = 1002 is among confirm.seeds"),
    ],
)
def test_refusals(tmp_path: Path, over: dict[str, Any], says: str) -> None:
    tree = make_study(**over)
    if over.get("search.early_stopping.rule"):
        tree["search"]["early_stopping"] = {"rule": "wilcoxon"}
    with pytest.raises(UserError, match=says):
        load(write(tmp_path, tree))
