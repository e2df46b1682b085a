"""Reading a real store."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import COLUMNS, SweepRuns
from analysis.read.selection import by_cell, value
from tests.analysis.conftest import SWEEP, Store
from trainables.errors import UserError


@pytest.fixture(scope="module")
def runs(store: Store) -> SweepRuns:
    return TrackingStore(store.uri).sweep(SWEEP)


def test_one_row_a_cell_with_the_right_run(runs: SweepRuns, store: Store) -> None:
    found = dict(zip(runs.frame["cell"], runs.frame["run_id"], strict=True))
    assert found == store.runs  # ce-0 ran three times; bil-* lie in another experiment; bil+intercl-2 did not run
    assert set(COLUMNS) <= set(runs.frame.columns)


def test_values_are_of_the_last_epoch(runs: SweepRuns) -> None:
    cells = by_cell(runs.frame)
    assert value(cells["ce-0"], "test/single_top1") == 0.40
    assert value(cells["ce-0"], "test/kl_experts") is None  # one expert: not logged
    assert cells["ce-0"]["params.method.name"] == "ce"
    assert cells["ce-0"]["seed"] == 0 and cells["ce-0"]["epochs_planned"] == 400
    assert cells["ce-0"]["recipes"]["method.ce"] == 1
    assert cells["bil+intracl-1"]["status"] == "diverged"
    assert cells["bil-0"]["ended"] - cells["bil-0"]["started"] == 30


def test_the_newest_plan_is_taken(runs: SweepRuns) -> None:
    assert runs.plan.question == "Which part of NCL++ matters?" and len(runs.plan.rows) == 7
    assert runs.search is not None and len(runs.search.trials) == 8


def test_records_of_a_few_runs(store: Store) -> None:
    tracking = TrackingStore(store.uri)
    tracking.sweep(SWEEP)
    found = tracking.records(["ce-0", "of no sweep"])
    assert list(found) == ["ce-0"] and found["ce-0"].class_counts == [500, 50, 5]


def test_an_unknown_sweep_lists_those_that_are_there(store: Store) -> None:
    with pytest.raises(UserError, match=r"no sweep 'study'; sweeps there: earlier, failed, study@small$"):
        TrackingStore(store.uri).sweep("study")


def test_a_sweep_that_only_failed(store: Store) -> None:
    with pytest.raises(UserError, match=r"'failed': none of its trials has finished \(1 failed\)"):
        TrackingStore(store.uri).sweep("failed")


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        TrackingStore(f"sqlite:///{tmp_path / 'none.db'}").sweep(SWEEP)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database, but long enough to be taken for one" * 20)
    with pytest.raises(UserError, match="does not answer"):
        TrackingStore(f"sqlite:///{tmp_path / 'x.db'}").sweep(SWEEP)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError, match=f"127.0.0.1:{port}: the tracking store does not answer"):
        TrackingStore(f"http://127.0.0.1:{port}").sweep(SWEEP)
    assert time.monotonic() - started < 20
