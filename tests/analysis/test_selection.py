"""What may share a table."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.read.selection import Selection, select
from ltsearch.store.records import PlannedCell, PlannedRow

COMMON = {"data": 1, "augmentation": 1, "model": 1, "loop": 1}


def run(cell: str, **over: Any) -> dict[str, Any]:
    return {
        "cell": cell, "status": "finished", "error": "", "fingerprint": "aaaa", "epochs_planned": 60.0,
        "recipes": {**COMMON, "method.ce": 1}, "test/single_class_mean": 0.5, "test/ensemble_class_mean": 0.5, **over,
    }  # fmt: skip


def chosen(*runs: dict[str, Any], **options: Any) -> Selection:
    rows = [
        PlannedRow(name=r["cell"], predict="single", changes={}, cells=[PlannedCell(cell=r["cell"], seed=0)])
        for r in runs
    ]
    return select(rows, {r["cell"]: r for r in runs}, **options)


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"fingerprint": "bbbb"}, "left out: dataset fingerprint bbbb instead of aaaa"),
        ({"epochs_planned": 30.0}, "left out: epochs 30 instead of 60"),
        ({"recipes": {**COMMON, "loop": 2, "method.ce": 1}}, "left out: recipe loop 2 instead of 1"),
        ({"recipes": {**COMMON, "method.ce": 2}}, "left out: recipe method.ce 2 instead of 1"),
        ({"fingerprint": "", "epochs_planned": 30.0}, "dataset fingerprint unknown instead of aaaa, epochs 30"),
    ],
)
def test_the_odd_one_is_left_out_and_told(over: dict[str, Any], reason: str) -> None:
    selection = chosen(run("odd", **over), run("a"), run("b"))
    assert [(absent.row, absent.finished) for absent in selection.absent] == [("odd", True)]
    assert reason in selection.absent[0].reason
    assert not selection.runs["odd"] and selection.runs["a"] and selection.runs["b"]


def test_other_methods_have_other_recipes() -> None:
    other = {**COMMON, "method.bsce": 7}
    assert chosen(run("a"), run("b"), run("c", recipes=other)).absent == ()


def test_a_tie_goes_to_the_first_row() -> None:
    selection = chosen(run("reference", fingerprint="zzzz"), run("b"))
    assert [absent.row for absent in selection.absent] == ["b"]


def test_epochs_may_differ_in_a_search() -> None:
    assert chosen(run("a"), run("b", epochs_planned=30.0), same_epochs=False).absent == ()


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"status": "running"}, "is still running"),
        ({"status": "pruned"}, "was stopped early"),
        ({"status": "out_of_memory", "error": "8 GB\nasked"}, "ran out of memory: 8 GB asked"),
        ({"status": "failed", "error": "x" * 999}, "failed: " + "x" * 200),
        ({"status": "interrupted"}, "was interrupted"),
        ({"test/single_class_mean": float("nan")}, "finished without test/single_class_mean"),
    ],
)
def test_only_finished_cells_enter(over: dict[str, Any], reason: str) -> None:
    selection = chosen(run("a", **over), run("b"))
    assert [(absent.reason, absent.finished) for absent in selection.absent] == [(reason, False)]


def test_a_cell_without_a_run() -> None:
    row = PlannedRow(name="a", predict="ensemble", changes={}, cells=[PlannedCell(cell="x", seed=3)])
    selection = select([row], {})
    assert str(selection.absent[0]) == "“a”, seed 3 (cell `x`): has not run"
