"""The Optuna study: seeds, pruning told as pruning, no configuration twice, and going on after a kill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.search.samplers import feasible
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study as make_study
from tests.ltsearch.helpers import write
from trainables.synthetic import accuracy

METRIC = "val/single_top1"


def open_study(folder: Path, **over: Any) -> SearchStudy:
    whole = ("search.space", "search.early_stopping")  # replaced, not merged
    tree = make_study(**{key: value for key, value in over.items() if key not in whole})
    for key in whole:
        if key in over:
            tree["search"][key.removeprefix("search.")] = over[key]
    folder.mkdir(exist_ok=True)
    return SearchStudy(make_plan(load(write(folder, tree))), folder)


def run(study: SearchStudy, stop_after: int | None = None) -> list[tuple[int, dict[str, Any], int]]:
    """Run trials as the queue does, one at a time; returns number, parameters and epochs of each."""
    done = []
    while stop_after is None or len(done) < stop_after:
        asked = study.ask()
        if asked is None:
            break
        number, cell = asked
        epochs, status = [], Status.FINISHED
        for e in range(1, cell.config.training.epochs + 1):
            metrics = {METRIC: accuracy(cell.config, e), "train/loss": cell.config.method.lambda_inter, "seconds": 1.0}
            epochs.append(Epoch(epoch=e, metrics=metrics))
            if study.report(number, epochs[-1], last=e == cell.config.training.epochs):
                status = Status.PRUNED
                break
        record = CellRecord(cell=cell.id, config={}, recipes={}, status=status, history=epochs)
        study.tell(number, status, record)
        done.append((number, dict(study._frozen(number).params), len(epochs)))
    return done


TWO = {"search.metrics": [{"name": METRIC}, {"name": "train/loss", "mode": "min"}], "search.early_stopping": None}


@pytest.mark.parametrize(
    ("sampler", "metrics"), [("tpe", {}), ("random", {}), ("gp", {}), ("cmaes", {}), ("nsga2", TWO), ("tpe", TWO)]
)
def test_every_sampler_repeats_exactly_and_goes_on_exactly(
    tmp_path: Path, sampler: str, metrics: dict[str, Any]
) -> None:
    over = {"search.sampler": sampler, "search.trials": 9, **metrics}
    whole = run(open_study(tmp_path / "a", **over))
    again = run(open_study(tmp_path / "b", **over))
    first = run(open_study(tmp_path / "c", **over), stop_after=4)
    rest = run(open_study(tmp_path / "c", **over))  # as another process would: everything comes from the journal
    assert len(whole) == 9
    assert whole == again
    assert whole == first + rest
    other = run(open_study(tmp_path / "d", **over, **{"search.seed": 1}))
    assert other != whole


def test_early_stopped_trials_are_told_as_pruned(tmp_path: Path) -> None:
    study = open_study(tmp_path, **{"search.trials": 20})
    ended = run(study)
    states = [t.state for t in study.study.trials]
    pruned = [n for n, _, epochs in ended if epochs < 9]
    assert pruned
    assert all((states[n] is optuna.trial.TrialState.PRUNED) == (n in pruned) for n, _, _ in ended)
    assert all(epochs in (3, 9) for _, _, epochs in ended)  # the rungs of factor 3 from epoch 3 on
    record = study.record()
    assert [t.state for t in record.trials if t.number in pruned] == ["pruned"] * len(pruned)
    assert record.stopped_by == "20 trials"


def test_asha_by_hand(tmp_path: Path) -> None:
    """At a rung, a trial goes on if it is among the best third of those that reached it (the first two: if it is best)."""
    study = open_study(tmp_path, **{"search.trials": 30, "search.sampler": "random"})
    seen: list[float] = []
    for number, params, epochs in run(study):
        config = study.plan.search_base.model_copy(
            update={
                "method": study.plan.search_base.method.model_copy(
                    update={k.split(".")[1]: v for k, v in params.items()}
                )
            }
        )
        value = accuracy(config, 3)
        seen.append(value)
        best = sorted(seen, reverse=True)[: max(len(seen) // 3, 1)]
        assert (epochs > 3) == (value in best), number


def test_a_discrete_space_runs_nothing_twice(tmp_path: Path) -> None:
    space = {"method.beta": {"choice": [0.1, 0.3, 0.5]}, "model.experts": {"int": [1, 2]}}
    over = {"search.space": space, "search.trials": 50, "search.early_stopping": None}
    study = open_study(tmp_path, **over)
    ended = run(study)
    combos = [tuple(sorted(p.items())) for _, p, _ in ended]
    assert len(combos) == len(set(combos)) == 6
    assert study.stopped_by == "every configuration of the space was tried"
    repeated = open_study(tmp_path / "r", **over | {"search.repeat_configurations": True, "search.trials": 12})
    assert len(run(repeated)) == 12


def test_budgets(tmp_path: Path) -> None:
    study = open_study(tmp_path / "t", **{"search.target": 0.5, "search.trials": 40, "search.early_stopping": None})
    ended = run(study)
    values = [t.values[0] for t in study.study.trials if t.values]
    assert max(values) == values[-1] >= 0.5 and len(ended) < 40
    hours = open_study(tmp_path / "h", **{"search.max_hours": 20 / 3600, "search.early_stopping": None})
    assert len(run(hours)) == 3  # 9 seconds each: the third ends after 20


def test_more_trials_continue_the_same_study(tmp_path: Path) -> None:
    few = run(open_study(tmp_path, **{"search.trials": 4}))
    more = run(open_study(tmp_path, **{"search.trials": 7}))
    assert [n for n, _, _ in few + more] == list(range(7))
    other_space = {"method.beta": {"uniform": [0, 0.5]}}
    assert run(open_study(tmp_path, **{"search.trials": 1, "search.space": other_space}))[0][0] == 0


def test_a_trial_that_was_running_is_asked_for_again(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    number, cell = study.ask()
    study.report(number, Epoch(epoch=1, metrics={METRIC: 0.2}), last=False)
    loaded = open_study(tmp_path)
    assert loaded.ask() == (number, cell)
    assert not loaded.report(number, Epoch(epoch=1, metrics={METRIC: 0.9}), last=False)
    assert loaded._frozen(number).intermediate_values == {1: 0.2}


def test_it_finds_what_there_is_to_find(tmp_path: Path) -> None:
    study = open_study(tmp_path, **{"search.trials": 40})
    run(study)
    best = study.best()[0].params
    assert abs(best["method.beta"] - 0.3) < 0.15 and abs(best["method.lambda_inter"] - 0.6) < 0.3
    importances = study.record().importances[METRIC]
    assert importances["method.beta"] > importances["method.lambda_inter"]
    ((trial, cells),) = study.winners()
    assert trial.params == best and len(cells) == 2


def test_several_metrics_give_a_pareto_front(tmp_path: Path) -> None:
    metrics = [{"name": METRIC}, {"name": "seconds", "mode": "min"}]
    over = {"search.early_stopping": None, "search.sampler": "nsga2", "search.trials": 12}
    tree = make_study(**over)
    tree["search"]["metrics"] = metrics
    study = SearchStudy(make_plan(load(write(tmp_path, tree))), tmp_path)
    for i in range(12):
        number, cell = study.ask()
        history = [Epoch(epoch=9, metrics={METRIC: accuracy(cell.config, 9), "seconds": float(i % 3)})]
        study.tell(
            number, Status.FINISHED, CellRecord(cell=cell.id, config={}, recipes={}, status="finished", history=history)
        )
    points = {t.number: t.values for t in study.study.trials if t.values}
    front = {
        n for n, (a, s) in points.items() if not any(b >= a and t <= s and (b, t) != (a, s) for b, t in points.values())
    }
    assert set(study.record().best) == front


def test_conditional_parameters(tmp_path: Path) -> None:
    space = {
        "method.lambda_inter": {"uniform": [0, 1], "when": {"method.weights": "fixed"}},
        "method.weights": {"choice": ["fixed", "learnable"]},
    }
    study = open_study(tmp_path, **{"search.space": space, "search.trials": 12})
    for _, params, _ in run(study):
        assert ("method.lambda_inter" in params) == (params["method.weights"] == "fixed")


def test_how_ends_are_told(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    want = {
        Status.DIVERGED: optuna.trial.TrialState.PRUNED,
        Status.FAILED: optuna.trial.TrialState.FAIL,
        Status.OUT_OF_MEMORY: optuna.trial.TrialState.PRUNED,
    }
    for status, state in want.items():
        number, cell = study.ask()
        study.tell(number, status, CellRecord(cell=cell.id, config={}, recipes={}, status=status))
        assert study._frozen(number).state is state
        assert feasible(study._frozen(number)) == (status is Status.FAILED)  # that was a machine's fault, or the code's


@pytest.mark.parametrize("died", ["before the verdict", "in the verdict", "after the verdict"])
def test_a_verdict_survives_the_driver(tmp_path: Path, died: str) -> None:
    study = open_study(tmp_path, **{"search.trials": 20})
    run(study, stop_after=3)
    number, cell = study.ask()
    epochs = [
        Epoch(epoch=e, metrics={METRIC: -1.0}) for e in (1, 2, 3)
    ]  # worse than all: it is stopped at the first rung
    assert not study.report(number, epochs[0], last=False)
    assert not study.report(number, epochs[1], last=False)
    if died == "after the verdict":
        assert study.report(number, epochs[2], last=False)
    else:
        trial = optuna.trial.Trial(study.study, study._frozen(number)._trial_id)
        trial.report(-1.0, 3)
        if died == "in the verdict":
            assert trial.should_prune() and not trial.should_prune()  # Optuna has noted the rung; it asks only once
    loaded = open_study(tmp_path, **{"search.trials": 20})
    assert loaded.ask() == (number, cell)
    assert [loaded.report(number, epoch, last=False) for epoch in epochs] == [False, False, True]


def test_a_verdict_to_go_on_survives_the_driver_too(tmp_path: Path) -> None:
    """Every trial is judged a second time after every epoch, by a study that was just loaded: nothing changes."""
    once = run(open_study(tmp_path / "once", **{"search.trials": 20}))
    study = open_study(tmp_path / "again", **{"search.trials": 20})
    report = study.report

    def twice(number: int, epoch: Epoch, last: bool) -> bool:
        stop = report(number, epoch, last)
        if not stop:
            assert not open_study(tmp_path / "again", **{"search.trials": 20}).report(number, epoch, last)
        return stop

    study.report = twice  # type: ignore[method-assign]
    assert run(study) == once
    assert len({epochs for _, _, epochs in once}) > 1


def test_a_verdict_to_go_on_is_not_given_again(tmp_path: Path) -> None:
    """A worker dies after a rung, and the epoch is told again: better trials that came to the rung since change nothing."""
    study = open_study(tmp_path, **{"search.trials": 20})
    first, second = study.ask(), study.ask()
    epochs = [Epoch(epoch=e, metrics={METRIC: 0.5}) for e in (1, 2, 3)]
    assert not any(study.report(first[0], epoch, last=False) for epoch in epochs)  # alone at the rung
    better = [Epoch(epoch=e, metrics={METRIC: 0.9}) for e in (1, 2, 3)]
    assert not any(study.report(second[0], epoch, last=False) for epoch in better)
    assert not study.report(first[0], epochs[-1], last=False)
    assert not open_study(tmp_path, **{"search.trials": 20}).report(first[0], epochs[-1], last=False)


def test_values_that_do_not_go_together_are_passed_over(tmp_path: Path) -> None:
    space = {
        "method.formulation": {"choice": ["paper", "official"]},
        "augmentation.mix": {"choice": ["none", "mixup"]},
    }
    over = {"search.space": space, "search.trials": 50, "search.early_stopping": None}
    ended = run(open_study(tmp_path, **over))
    combos = {(p["method.formulation"], p["augmentation.mix"]) for _, p, _ in ended}
    assert len(ended) == 3 and combos == {("paper", "none"), ("paper", "mixup"), ("official", "none")}
    again = open_study(tmp_path, **over)
    before = len(again.study.trials)
    assert again.is_over() and again.ask() is None and len(again.study.trials) == before


def test_a_continuous_space_of_which_nothing_goes_together_is_told_and_not_exhausted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The plan refuses what it can tell by trying; a space of which it has not tried the right part comes so far.
    monkeypatch.setattr("ltsearch.plan.searched.check_together", lambda *_: None)
    space = {
        "method.beta": {"uniform": [0, 1]},
        "method.formulation": {"choice": ["official"]},
        "augmentation.mix": {"choice": ["mixup"]},
    }
    over = {"search.space": space, "search.early_stopping": None}
    study = open_study(tmp_path, **over)
    assert study.ask() is None
    why = "30 proposals in a row could not be run, the last: .*'mixup' is not defined for `formulation: official`"
    assert re.search(why + ".*; narrow search.space", study.problem)
    assert study.stopped_by == study.problem == study.record().stopped_by and study.record().trials == []
    again = open_study(tmp_path, **over)
    tried = len(again.study.trials)
    assert not again.is_over() and not again.problem
    assert again.ask() is None and len(again.study.trials) == 2 * tried and again.problem


def test_a_trial_that_finishes_without_the_metric_is_told_and_not_the_best(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    told = {}
    for metrics in ({METRIC: 0.5}, {"val/ensemble_top1": 0.9}):
        number, cell = study.ask()
        history = [Epoch(epoch=9, metrics=metrics)]
        record = CellRecord(cell=cell.id, config={}, recipes={}, status=Status.FINISHED, history=history)
        study.tell(number, Status.FINISHED, record)
        told[number] = study.problem
    assert told == {0: "", 1: f"trial 1 finished without {METRIC}; choose another metric"}
    assert [t.number for t in study.best()] == [0] and study.record().trials[1].state == "failed"


def test_batches_that_workers_cannot_share_are_passed_over(tmp_path: Path) -> None:
    space = {"training.batch_size": {"choice": [30, 31, 32, 33]}}
    over = {"search.space": space, "search.early_stopping": None, "resources": {"workers": 2}}
    ended = run(open_study(tmp_path, **over))
    assert {p["training.batch_size"] for _, p, _ in ended} == {30, 32}


def test_a_half_made_proposal_is_dropped(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.study.ask().suggest_float("method.beta", 0, 1)  # and the driver dies
    loaded = open_study(tmp_path)
    assert loaded.study.trials[0].state is optuna.trial.TrialState.RUNNING  # looking changes nothing
    number, cell = loaded.ask()
    assert number == 1 and set(loaded._frozen(1).params) == {"method.beta", "method.lambda_inter"}
    assert loaded.study.trials[0].state is optuna.trial.TrialState.FAIL
    assert len(loaded.record().trials) == 1


def test_other_content_of_the_data_is_another_search(tmp_path: Path) -> None:
    plan = make_plan(load(write(tmp_path, make_study())))
    assert SearchStudy(plan, tmp_path, "a").study.study_name != SearchStudy(plan, tmp_path, "b").study.study_name
