"""The Optuna study: seeds, pruning told as pruning, no configuration twice, and going on after a kill."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import first_choices
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.search.samplers import feasible
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study as make_study
from tests.ltsearch.helpers import write
from trainables.errors import UserError
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
        done.append((number, study._params(study._frozen(number)), len(epochs)))
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


# -- other rules of early stopping -----------------------------------------------------------------------------------------


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
            assert study._judged_again(study._frozen(number))  # the note is there; the verdict is found without it
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


# -- constraints -----------------------------------------------------------------------------------------------------------


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


# -- what is tried first -----------------------------------------------------------------------------------------------------


def asked(tmp_path: Path, count: int, **over: Any) -> list[dict[str, Any]]:
    search = open_study(tmp_path, **over)
    numbers = [ask[0] for _ in range(count) if (ask := search.ask()) is not None]
    return [search._params(search._frozen(number)) for number in numbers]


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
