"""``ltsearch replay``: searches answered from learning curves in a store, against what those curves say themselves."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from ltsearch import cli
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import search_cell
from ltsearch.search.replayed import record_of, replay
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Plan, CellStore]:
    """The curves of all 30 configurations, each taking as many seconds an epoch as its number, of which one diverges."""
    folder = tmp_path_factory.mktemp("replay")
    file = write(folder, tree())
    plan, store = make_plan(load(file)), CellStore(folder / "store")
    for number, chosen in enumerate(spaces.combinations(plan.loaded.spec.search.space), start=1):
        cell = search_cell(plan, chosen)
        last = EPOCHS if number < GRID else 4
        history = [
            Epoch(epoch=e, metrics={METRIC: accuracy(cell.config, e), "seconds": float(number)})
            for e in range(1, last + 1)
        ]
        record = CellRecord(
            cell=cell.id,
            config=cell.config.model_dump(mode="json"),
            recipes=recipes(cell.config),
            status="running",
            history=history,
        )
        store.settle(record, Status.FINISHED if number < GRID else Status.DIVERGED)
    return file, plan, store


def test_what_is_tried_to_the_end_costs_everything_and_finds_the_best(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    top = max(r.history[-1].metrics[METRIC] for r in recording.records.values() if r.status is Status.FINISHED)
    assert recording.best == top and recording.epochs == (GRID - 1) * EPOCHS + 4
    whole = replay(plan, recording, sampler="random", stopping=None, seed=0, trials=GRID, at_once=1)
    assert (whole.trials, whole.stopped, whole.epochs) == (GRID, 0, recording.epochs)
    assert whole.found[-1].best == top and whole.within(recording, 0.0) == whole.found[-1].epochs
    seconds = sum(sum(e.metrics["seconds"] for e in r.history) for r in recording.records.values())
    assert whole.seconds == pytest.approx(seconds)  # one after another
    rising = [found.best for found in whole.found]
    assert rising == sorted(rising) and len(set(rising)) == len(rising)


def test_trials_side_by_side_share_the_clock(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    seconds = sum(sum(e.metrics["seconds"] for e in r.history) for r in recording.records.values())
    longest = GRID * EPOCHS
    four = replay(plan, recording, sampler="random", stopping=None, seed=0, trials=GRID, at_once=4)
    assert four.epochs == recording.epochs
    assert seconds / 4 <= four.seconds <= seconds / 4 + longest


def test_early_stopping_saves_epochs_and_the_seed_says_which(trained: tuple[Path, Plan, CellStore]) -> None:
    _, plan, store = trained
    recording = record_of(plan, store)
    asha = EarlyStopping(rule="asha", grace_epochs=3)
    options = {"sampler": "tpe", "stopping": asha, "trials": GRID, "at_once": 2}
    first, again, other = (replay(plan, recording, seed=seed, **options) for seed in (1, 1, 2))
    assert first == again != other
    # The closed form's curves never cross, so that no rung can stop the best of those before it.
    assert first.stopped > 0 and first.epochs < 0.6 * recording.epochs and first.found[-1].best == recording.best


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
    assert {line["gap"] for line in progress if line["search"] == "0"} >= {"0.0"}
    assert (tmp_path / "replay.svg").stat().st_size > 1000 and (tmp_path / "replay.png").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--samplers", "tpee"], "--samplers: no 'tpee'"),
        (["--early-stopping", ","], "--early-stopping: names nothing"),
        (["--searches", "0"], "--searches 0: must be >= 1"),
        (["--grace-epochs", "28"], "--grace-epochs 28: must be from 1 to 27"),
        (["--set", "search.space={method.beta: {uniform: [0, 1]}}"], "search.space: to be replayed"),
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
