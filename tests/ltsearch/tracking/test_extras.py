"""What the pages of MLflow show, on a real SQLite store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job, Outcome
from ltsearch.store.cells import CellStore
from ltsearch.store.records import TAG_ROW, CellRecord, Epoch, PlannedCell, PlannedRow, PlanRecord, Status
from ltsearch.tracking import extras
from ltsearch.tracking.server import connect
from ltsearch.tracking.writer import Tracker
from tests.ltsearch.helpers import study

PLAN = PlanRecord(
    sweep="s",
    name="s",
    profile=None,
    question="Why?",
    command="python -m ltsearch.sweep s.yaml",
    provenance={"commit": "abc123"},
    rows=[
        PlannedRow(name="NCL++ (β = 0.3)", predict="single", changes={}, cells=[PlannedCell(cell="a", seed=0)]),
        PlannedRow(name="waiting", predict="single", changes={}, cells=[PlannedCell(cell="b", seed=0)]),
    ],
)


@pytest.fixture
def tracked(tmp_path: Path) -> tuple[str, Tracker]:
    """A sweep of one trial that has ended."""
    uri, store = f"sqlite:///{tmp_path}/mlflow.db", CellStore(tmp_path / "store")
    cell = make_cell(study()["base"], 0, "test")
    job = Job(cell, "ablation", "BSCE · seed 0", started=100.0)
    tracker = Tracker(uri, "experiment", "s", store, warn=print)
    tracker.open(PLAN)
    tracker.started(job)
    store.write(
        CellRecord(
            cell=cell.id,
            config=cell.config.model_dump(mode="json"),
            recipes={},
            status=Status.FINISHED,
            started=100.0,
            fingerprint="f" * 64,
            class_counts=[5, 3],
            history=[Epoch(epoch=1, metrics={"train/loss": 1.0})],
        )
    )
    tracker.ended(job, Outcome(Status.FINISHED))
    tracker.close(Status.FINISHED, [cell.id], PLAN, None)
    return uri, tracker


def test_a_trials_data_set_and_its_row_without_the_seed(tracked: tuple[str, Tracker]) -> None:
    uri, tracker = tracked
    (run_id,) = tracker.runs.values()
    run = connect(uri).get_run(run_id)
    assert run.data.tags[TAG_ROW] == "BSCE" and run.info.run_name == "BSCE · seed 0"
    (found,) = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("digits", "f" * 36)
    assert json.loads(found.dataset.profile) == {"training_images": 8, "classes": 2}
    assert json.loads(found.dataset.source)["imbalance"]["factor"] > 0
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


def test_a_sweeps_run_has_what_it_was_trained_on_once(tracked: tuple[str, Tracker]) -> None:
    """However many rows and trials share it, and however often the sweep is run."""
    uri, tracker = tracked
    (cell,) = tracker.runs
    assert connect(uri).get_run(tracker.parent).inputs.dataset_inputs == []  # no trial of its rows was there
    row = PLAN.rows[0].model_copy(update={"cells": [PlannedCell(cell=cell, seed=0)]})
    plan = PLAN.model_copy(update={"rows": [row, row.model_copy(update={"name": "another"})]})
    parents = set()
    for _ in range(2):
        again = Tracker(uri, "experiment", "s", tracker.store, warn=print)
        again.open(plan)
        again.close(Status.FINISHED, [cell], plan, None)
        parents.add(again.parent)
    for parent in parents:
        (found,) = connect(uri).get_run(parent).inputs.dataset_inputs
        assert (found.dataset.name, found.dataset.digest) == ("digits", "f" * 36)
        assert json.loads(found.dataset.profile) == {"training_images": 8, "classes": 2}


def test_a_sweeps_source_and_the_kind_of_its_experiment(tracked: tuple[str, Tracker]) -> None:
    uri, tracker = tracked
    client = connect(uri)
    tags = client.get_run(tracker.parent).data.tags
    assert tags["mlflow.source.name"] == PLAN.command and tags["mlflow.source.git.commit"] == "abc123"
    assert tags["mlflow.note.content"] == "Why?"
    experiment = client.get_experiment_by_name("experiment")
    assert experiment is not None and experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_the_report_and_the_headline_are_on_the_sweeps_run(tracked: tuple[str, Tracker], tmp_path: Path) -> None:
    uri, tracker = tracked
    report = tmp_path / "results"
    (report / "figures").mkdir(parents=True)
    (report / "report.md").write_text("# s")
    (report / "figures" / "1.png").write_bytes(b"png")
    extras.attach(uri, tracker.parent, report, {"headline/BSCE": 0.5})
    client = connect(uri)
    assert {item.path for item in client.list_artifacts(tracker.parent, "report")} == {
        "report/report.md",
        "report/figures",
    }
    assert client.get_run(tracker.parent).data.metrics == {"headline/BSCE": 0.5}


def test_headlines_are_means_over_finished_seeds_under_names_that_mlflow_takes() -> None:
    def read(cell: str) -> CellRecord | None:
        if cell != "a":
            return None
        epoch = Epoch(epoch=1, metrics={"test/single_class_mean": 0.4})
        return CellRecord(cell="a", config={}, recipes={}, status=Status.FINISHED, history=[epoch])

    assert extras.headlines(PLAN, read) == {"headline/NCL__ _β _ 0.3_": 0.4}


def test_a_server_that_is_away_costs_the_copy_only(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "report.md").write_text("# s")
    extras.attach("http://127.0.0.1:9", "run", tmp_path, {}, warn=told.append)
    assert len(told) == 1 and told[0].startswith("the report is not on its page: tracking server http://127.0.0.1:9")
