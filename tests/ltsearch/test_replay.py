"""``ltsearch replay``: searches answered from learning curves in a store, against what those curves say themselves."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ltsearch import cli
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import search_cell
from ltsearch.replay import Kind, _Task
from ltsearch.run.jobs import Outcome
from ltsearch.run.queue import Queue
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.search.replayed import Recording, record_of, replay, with_search
from ltsearch.store.cells import CellStore
from ltsearch.store.ids import recipes
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study import space as spaces
from ltsearch.study.search import EarlyStopping
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError
from trainables.synthetic import accuracy

METRIC = "val/single_top1"
SPACE = {
    "method.beta": {"choice": [0.1, 0.2, 0.3, 0.4, 0.5, 0.7]},
    "method.lambda_inter": {"choice": [0.0, 0.2, 0.4, 0.6, 0.8]},
}
GRID = 30
EPOCHS = 27


def tree(**over: Any) -> dict[str, Any]:
    made = study(**{"base.training.epochs": EPOCHS, "base.method.inter": True, "base.model.experts": 2, **over})
    made["search"] |= {"space": SPACE, "metrics": [{"name": METRIC}]}
    return made


def record(plan: Plan, store: CellStore, metric: str = METRIC, sign: int = 1) -> None:
    """The curves of all 30 configurations, each taking as many seconds an epoch as its number.

    The last one diverges in its fifth epoch, the one before it runs out of memory in its first.
    """
    for number, chosen in enumerate(spaces.combinations(plan.loaded.spec.search.space), start=1):
        cell = search_cell(plan, chosen)
        last, status = {GRID: (4, Status.DIVERGED), GRID - 1: (0, Status.OUT_OF_MEMORY)}.get(
            number, (EPOCHS, Status.FINISHED)
        )
        history = [
            Epoch(epoch=e, metrics={metric: sign * accuracy(cell.config, e), "seconds": float(number), "other": 1.0})
            for e in range(1, last + 1)
        ]
        made = CellRecord(
            cell=cell.id,
            config=cell.config.model_dump(mode="json"),
            recipes=recipes(cell.config),
            status="running",
            history=history,
        )
        store.settle(made, status)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, CellStore]:
    folder = tmp_path_factory.mktemp("replay")
    file = write(folder, tree())
    plan, store = make_plan(load(file)), CellStore(folder / "store")
    record(plan, store)
    return file, plan, store


def seconds_of(recording: Recording) -> float:
    return sum(sum(e.metrics["seconds"] for e in r.history) for r in recording.records.values())


def test_what_is_tried_to_the_end_costs_everything_and_finds_the_best(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    top = max(r.history[-1].metrics[METRIC] for r in recording.records.values() if r.status is Status.FINISHED)
    assert recording.best == top and recording.epochs == (GRID - 2) * EPOCHS + 4
    whole = replay(with_search(plan, "random", None, 0, GRID), recording, at_once=1)
    assert (whole.trials, whole.stopped, whole.epochs) == (GRID, 0, recording.epochs)
    assert whole.found[-1].gap == 0 and whole.within(0.0) == whole.found[-1].epochs
    assert whole.seconds == pytest.approx(seconds_of(recording))  # one after another
    falling = [found.gap for found in whole.found]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) == len(falling)


def test_trials_side_by_side_share_the_clock(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    four = replay(with_search(plan, "random", None, 0, GRID), recording, at_once=4)
    assert four.epochs == recording.epochs
    assert seconds_of(recording) / 4 <= four.seconds <= seconds_of(recording) / 4 + GRID * EPOCHS


@pytest.mark.parametrize("rule", ["asha", "hyperband", "median"])
def test_early_stopping_saves_epochs_and_the_seed_says_which(rule: str, trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    stopping = EarlyStopping(rule=rule, grace_epochs=3)
    first, again, other = (
        replay(with_search(plan, "tpe", stopping, seed, GRID), recording, at_once=2) for seed in (1, 1, 2)
    )
    assert first == again != other
    # The closed form's curves never cross, so that no rung stops the best of those before it.
    assert first.stopped > 0 and first.epochs < 0.8 * recording.epochs and first.found[-1].gap == 0


@pytest.mark.parametrize(("sampler", "rule"), [("random", "asha"), ("tpe", "hyperband"), ("tpe", "median")])
def test_it_goes_as_the_queue_of_a_sweep_does(
    sampler: str, rule: str, trained: tuple[Path, Plan, CellStore], tmp_path: Path
) -> None:
    """The same search by ``run.queue`` with a store of its own, one trial after another: epochs, stops, what was found when."""
    _, plan, store = trained
    recording = record_of(plan, store)
    plan = replace(with_search(plan, sampler, EarlyStopping(rule=rule, grace_epochs=3), 3, 15), rows=())
    own = CellStore(tmp_path / "store")
    search = SearchStudy(plan, own.sweep_folder(plan.loaded.sweep))
    queue = Queue(plan, own, search, [], lambda record: False)
    trials = epochs = stopped = 0
    found: list[tuple[int, float]] = []
    while (job := queue.next()) is not None:
        queue.started(job)
        record, trials = recording.records[job.cell.id], trials + 1
        for at, epoch in enumerate(record.history, start=1):
            epochs += 1
            last = at == len(record.history) and record.status is Status.FINISHED
            now = record.model_copy(update={"status": Status.RUNNING, "history": record.history[:at]})
            own.write(now)
            if queue.epoch(job, epoch, {}, last):
                stopped += 1
                queue.end(job, Outcome(Status.PRUNED))
                break
        else:
            if record.status is Status.FINISHED:
                own.settle(now, Status.FINISHED)
                gap = recording.gap(record.history[-1].metrics[METRIC])
                found += [(epochs, gap)] if not found or gap < found[-1][1] else []
            queue.end(job, Outcome(record.status, "as it was"))
    assert queue.exhausted
    same = replay(plan, recording, at_once=1)
    assert (same.trials, same.epochs, same.stopped) == (trials, epochs, stopped) and stopped > 0
    assert [(one.epochs, one.gap) for one in same.found] == found


def test_a_metric_that_is_to_be_small(tmp_path: Path) -> None:
    small = tree()
    small["search"]["metrics"] = [{"name": "train/loss", "mode": "min"}]
    plan, store = make_plan(load(write(tmp_path, small))), CellStore(tmp_path / "store")
    record(plan, store, "train/loss", -1)
    recording = record_of(plan, store)
    assert recording.best == min(r.history[-1].metrics["train/loss"] for r in recording.records.values() if r.history)
    whole = replay(with_search(plan, "random", None, 0, GRID), recording, at_once=1)
    assert [found.gap >= 0 for found in whole.found] and str(whole.found[-1].gap) == "0.0"


def test_constraints_bound_what_counts_as_the_best(tmp_path: Path) -> None:
    """Epochs of the n-th configuration take n seconds: of the 30, ten keep to the constraint."""
    bound = tree()
    bound["search"]["constraints"] = [{"metric": "seconds", "max": 10.0}]
    plan, store = make_plan(load(write(tmp_path, bound))), CellStore(tmp_path / "store")
    record(plan, store)
    recording = record_of(plan, store)
    ends = [r.history[-1].metrics for r in recording.records.values() if r.status is Status.FINISHED]
    assert recording.best == max(m[METRIC] for m in ends if m["seconds"] <= 10) < max(m[METRIC] for m in ends)
    whole = replay(with_search(plan, "random", None, 0, GRID), recording, at_once=2)
    assert whole.found[-1].gap == 0


def test_only_what_is_needed_is_kept(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    kept = next(iter(record_of(plan, store).records.values()))
    assert set(kept.history[0].metrics) == {METRIC, "seconds"}


def test_the_command_writes_a_line_for_every_search(
    trained: tuple[Path, Plan, CellStore], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, _, store = trained
    words = ["replay", str(file), "--storage", str(store.root), "--out", str(tmp_path), "--searches", "3"]
    words += ["--samplers", "random", "--early-stopping", "none,asha", "--trials", str(GRID)]
    assert cli.main(words) == 0
    said = capfd.readouterr().out
    assert "| random | none | 100% | 0.0000 (0.0000–0.0000) | 3 of 3 |" in said
    assert (tmp_path / "replay.md").read_text() in said
    lines = list(csv.DictReader((tmp_path / "replay.csv").open()))
    assert [(line["early_stopping"], line["search"]) for line in lines] == [
        (rule, str(seed)) for rule in ("none", "asha") for seed in range(3)
    ]
    assert all(line["share"] == "1.0000" and float(line["gap"]) == 0 for line in lines[:3])
    assert all(float(line["share"]) < 0.6 for line in lines[3:])
    progress = list(csv.DictReader((tmp_path / "replay_progress.csv").open()))
    assert {line["gap"] for line in progress if line["search"] == "0"} >= {"inf", "0.0"}
    assert (tmp_path / "replay.svg").stat().st_size > 1000 and (tmp_path / "replay.png").exists()


def test_what_was_replayed_is_not_replayed_again(
    trained: tuple[Path, Plan, CellStore], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """After a kill in the middle of a line, and with a sampler more."""
    file, _, store = trained
    words = ["replay", str(file), "--storage", str(store.root), "--searches", "3", "--early-stopping", "asha"]
    words += ["--out", str(tmp_path)]
    assert cli.main([*words, "--samplers", "random"]) == 0
    first = (tmp_path / "replay.csv").read_text()
    kept = tmp_path / "replayed.jsonl"
    kept.write_text(kept.read_text()[:-30])
    capfd.readouterr()
    assert cli.main([*words, "--samplers", "random,tpe"]) == 0
    assert "2 of 6 searches are in " in capfd.readouterr().err
    assert (tmp_path / "replay.csv").read_text().startswith(first) and len(kept.read_text().split()) == 6 + 1
    kept.unlink()
    kept.mkdir()
    assert cli.main(words) == 2
    assert "replayed.jsonl there is no file" in capfd.readouterr().err


def test_a_search_that_would_find_something_else_is_replayed(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    cell, record = next(iter(recording.records.items()))
    slower = [e.model_copy(update={"metrics": {**e.metrics, "seconds": 9.0}}) for e in record.history]
    other = replace(recording, records={**recording.records, cell: record.model_copy(update={"history": slower})})
    kind = Kind("random", "none")
    tasks = [
        _Task({kind: partial(with_search, plan, sampler, stopping, trials=trials)}, curves, at_once, 0.0)
        for sampler, stopping, trials, curves, at_once in (
            ("random", None, 9, recording, 4),
            ("tpe", None, 9, recording, 4),
            ("random", EarlyStopping(grace_epochs=3), 9, recording, 4),
            ("random", None, 8, recording, 4),
            ("random", None, 9, other, 4),
            ("random", None, 9, recording, 3),
        )
    ]
    assert len({task.mark(kind) for task in tasks}) == 6
    assert replace(tasks[0], tolerance=1.0).mark(kind) == tasks[0].mark(kind)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--samplers", "tpee"], "--samplers: no 'tpee'"),
        (["--early-stopping", ","], "--early-stopping: names nothing"),
        (["--searches", "0"], "--searches 0: must be >= 1"),
        (["--grace-epochs", "28"], "--grace-epochs 28: must be from 1 to 27"),
        (["--samplers", "cmaes"], "--samplers cmaes: "),
        (["--out", "/proc/nowhere"], "--out /proc/nowhere: "),
        (["--set", "search.space={method.beta: {uniform: [0, 1]}}"], "search.space.method.beta: to be replayed"),
        (["--set", "base.training.epochs=28"], "30 of 30 configurations of search.space have no learning curve"),
    ],
)
def test_bad_words(
    words: list[str], message: str, trained: tuple[Path, Plan, CellStore], capfd: pytest.CaptureFixture[str]
) -> None:
    file, _, store = trained
    assert cli.main(["replay", str(file), "--storage", str(store.root), *words]) == 2
    assert message in capfd.readouterr().err


def test_a_study_without_a_search(trained: tuple[Path, Plan, CellStore], tmp_path: Path) -> None:
    without = tree()
    del without["search"]
    with pytest.raises(UserError, match="no `search`"):
        record_of(make_plan(load(write(tmp_path, without))), trained[2])
