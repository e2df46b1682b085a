"""Weights that others require and that cannot be used: said, kept aside, and trained again before who needs them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ltsearch.plan.cells import Cell
from ltsearch.plan.layout import make_plan
from ltsearch.run.capacity import Capacity
from ltsearch.run.jobs import Job, Outcome
from ltsearch.run.queue import Queue
from ltsearch.run.tune_adapters import Feeder, Stopper
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import Resources, load
from tests.ltsearch.helpers import study, write
from trainables import checkpoint, trained


@pytest.fixture
def student(tmp_path: Path) -> tuple[Queue, CellStore, Cell]:
    """A row that learns from one teacher, which has finished."""
    tree = study(**{"seeds": 1, "base.synthetic": None, "base.model": {"backbone": "resnet8"}})
    tree["ablation"] = {"rows": [{"name": "student", "set": {"method": {"name": "offline_distillation", "number": 1}}}]}
    del tree["search"]
    plan = make_plan(load(write(tmp_path, tree)))
    store, teacher = CellStore(tmp_path / "store"), plan.cells[0]
    finish(store, teacher)
    return Queue(plan, store, None, [], lambda record: False), store, teacher


def finish(store: CellStore, cell: Cell) -> None:
    config = cell.config.model_dump(mode="json")
    store.write(CellRecord(cell=cell.id, config=config, recipes={}, status=Status.FINISHED))
    network, method = trained.assemble(cell.config, torch.arange(10) + 5)
    trained.save(store.folder(cell.id) / "weights.pt", network, method)


def test_weights_that_fit_are_used(student: tuple[Queue, CellStore, Cell]) -> None:
    queue, _, _ = student
    queue.say = pytest.fail
    job = queue.next()
    assert job is not None and job.stage == "ablation"


def spoil(path: Path, how: str) -> None:
    state: Any = checkpoint.load(path)
    match how:
        case "damaged":
            path.write_bytes(b"damaged")
        case "missing":
            path.unlink()
        case "another network":
            checkpoint.save(path, {**state, "network": {"layer": torch.zeros(3)}})
        case "no tensors":
            checkpoint.save(path, {**state, "network": "x", "class_counts": 3})


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("damaged", "the weights {path} of a trial that comes first are missing or broken"),
        ("missing", "the weights {path} of a trial that comes first are missing or broken"),
        ("another network", "{path} do not fit the network: "),
        ("no tensors", "{path}: "),
    ],
)
def test_weights_that_cannot_be_used_are_trained_again(
    how: str, said: str, student: tuple[Queue, CellStore, Cell]
) -> None:
    queue, store, teacher = student
    told: list[str] = []
    queue.say = told.append
    path = Path(str(store.folder(teacher.id))) / "weights.pt"
    spoil(path, how)
    first = queue.next()
    assert first is not None and first.cell.id == teacher.id and first.stage == "required"
    assert len(told) == 1 and told[0].startswith(said.format(path=path))
    assert told[0].endswith("; the cell is trained again, and what lay there is kept beside it as *.aside")
    assert (path.parent / "record.json.aside").exists() and store.read(teacher.id) is None
    finish(store, teacher)
    queue.end(first, Outcome(Status.FINISHED))
    second = queue.next()
    assert second is not None and second.stage == "ablation" and len(told) == 1


def test_what_a_trial_tells_is_said(student: tuple[Queue, CellStore, Cell]) -> None:
    queue, _, _ = student
    told: list[str] = []
    job = queue.next()
    assert isinstance(job, Job)
    queue.say = told.append
    feeder = Feeder(queue, Capacity(Resources(), lambda: {"here": {"CPU": 1.0}}))
    feeder.jobs["t"] = job
    stopper, trial = Stopper(feeder), SimpleNamespace(trial_id="t")
    stopper.on_trial_result(None, trial, {"epoch": 1, "notice": "checkpoint.pt does not fit"})  # type: ignore[arg-type]
    stopper.on_trial_result(None, trial, {"epoch": 2})  # type: ignore[arg-type]
    assert told == [f"{job.label} ({job.cell.id}): checkpoint.pt does not fit"]
    assert job.epochs_seen == {1: Epoch(epoch=1, metrics={}), 2: Epoch(epoch=2, metrics={})}
