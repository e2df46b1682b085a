"""Whole sweeps of trials that train nothing, on a real Ray and a real MLflow store, and what they survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.ltsearch.helpers import environment, marked, study, sweep, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def records(folder: Path, store: CellStore | None = None) -> dict[str, CellRecord]:
    """Of the store in a folder, or another one."""
    store = store or CellStore(folder / "store")
    return {cell: record for cell in store.cells() if (record := store.read(cell)) is not None}


def runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000))


def curves(folder: Path, store: CellStore | None = None) -> dict[str, list[tuple[int, float]]]:
    """Accuracy over epochs of every finished cell."""
    return {
        cell: [(e.epoch, e.metrics["train/top1"]) for e in record.history]
        for cell, record in records(folder, store).items()
        if record.status == "finished"
    }


@pytest.fixture(autouse=True, scope="module")
def _mark() -> Iterator[None]:
    """What all processes of this module's sweeps have in their environment, and no other's."""
    os.environ["LTSEARCH_MARK"] = uuid.uuid4().hex
    yield
    del os.environ["LTSEARCH_MARK"]


def left_over() -> list[str]:
    """Raylets of this module's sweeps."""
    return [line for line in marked(os.environ["LTSEARCH_MARK"]).values() if "raylet" in line.split(" ")[0]]


def start(folder: Path, *words: str, module: str = "ltsearch.sweep") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, *words]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**environment(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job of a shell ignores it
    )


def wait_for(process: subprocess.Popen[str], text: str, times: int = 1) -> list[str]:
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        times -= text in line
        if times == 0:
            return lines
    raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing disturbs, one trial at a time."""
    folder = tmp_path_factory.mktemp("whole")
    path = write(folder, study())
    ran = sweep(folder, str(path), "--max-concurrent", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def test_a_whole_sweep(whole: Path) -> None:
    found = records(whole)
    by_status: dict[str, int] = {}
    for record in found.values():
        by_status[record.status] = by_status.get(record.status, 0) + 1
    assert by_status["finished"] + by_status.get("pruned", 0) == len(found) == 6 + 8 + 2
    ablation = [r for r in found.values() if r.config["data"]["val_per_class"] == 0]
    assert all(set(r.history[-1].metrics) >= {"test/single_top1", "train/loss"} for r in ablation)
    assert all(
        not any(name.startswith("test/") for e in r.history for name in e.metrics)
        for r in found.values()
        if r not in ablation
    )
    assert not list((whole / "store").rglob("checkpoint.pt"))

    logged = runs(whole)
    parent = [r for r in logged if r.data.tags["ltsearch.role"] == "sweep"]
    children = [r for r in logged if r.data.tags["ltsearch.role"] == "trial"]
    assert len(parent) == 1 and len(children) == 16
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parent[0].info.run_id}
    assert all(r.info.status != "RUNNING" for r in logged)
    assert {r.data.tags["ltsearch.cell"]: r.data.tags["ltsearch.status"] for r in children} == {
        cell: str(record.status) for cell, record in found.items()
    }
    assert all(r.data.metrics["epoch"] == found[r.data.tags["ltsearch.cell"]].history[-1].epoch for r in children)
    report = (whole / "results" / "synthetic" / "report.md").read_text()
    assert "base + InterCL" in report and "## Search" in report
    assert not left_over()


def test_metrics_are_logged_once_an_epoch(whole: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{whole}/mlflow.db")
    for run in runs(whole):
        if run.data.tags["ltsearch.role"] == "trial":
            steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
            assert steps == list(range(1, len(steps) + 1))


def test_the_same_command_again_runs_nothing(whole: Path) -> None:
    report = (whole / "results" / "synthetic" / "report.md").read_bytes()
    before = {cell: record.started for cell, record in records(whole).items()}
    ran = sweep(whole, "study.yaml", "--max-concurrent", "1")
    assert ran.returncode == 0 and "nothing to run" in ran.stdout
    assert (whole / "results" / "synthetic" / "report.md").read_bytes() == report
    assert {cell: record.started for cell, record in records(whole).items()} == before


def test_a_new_mlflow_store_is_filled_from_the_records(whole: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    ran = sweep(whole, "study.yaml", "--tracking-uri", uri)
    assert ran.returncode == 0, ran.stderr
    rebuilt = {r.data.tags.get("ltsearch.cell"): r for r in runs(tmp_path)}
    for run in runs(whole):
        other = rebuilt[run.data.tags.get("ltsearch.cell")]
        assert other.data.metrics == run.data.metrics and other.info.status == run.info.status
        assert other.data.params == run.data.params


def test_a_driver_that_dies_loses_nothing(whole: Path, tmp_path: Path) -> None:
    """Asked to end in the ablation and in the search, and killed there; every curve is that of the undisturbed sweep."""
    path = write(tmp_path, study(resources={"checkpoint_seconds": 0}))
    finished: dict[str, str] = {}
    for blow, times in ((signal.SIGINT, 2), (signal.SIGKILL, 6), (signal.SIGTERM, 1)):
        process = start(tmp_path, str(path), "--max-concurrent", "1")
        wait_for(process, "] finished", times)
        wait_for(process, "] start")
        time.sleep(0.05)
        before, finished = finished, {c: r.ended for c, r in records(tmp_path).items() if r.status == "finished"}
        assert before.items() <= finished.items()  # none was run again
        assert left_over()
        process.send_signal(blow)
        output, _ = process.communicate(timeout=120)
        if blow != signal.SIGKILL:
            assert process.returncode == 130, output
            assert "Traceback" not in output and "the same command goes on" in output
            assert all(r.info.status != "RUNNING" for r in runs(tmp_path))
        deadline = time.monotonic() + 30
        while left_over() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not left_over()
    ran = sweep(tmp_path, str(path), "--max-concurrent", "1")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert curves(tmp_path) == curves(whole)
    assert {c: str(r.status) for c, r in records(tmp_path).items()} == {
        c: str(r.status) for c, r in records(whole).items()
    }
    now = records(tmp_path)
    assert all(now[cell].ended == ended for cell, ended in finished.items())  # not run again
    assert all(r.info.status != "RUNNING" for r in runs(tmp_path))
    cells = [r.data.tags["ltsearch.cell"] for r in runs(tmp_path) if r.data.tags["ltsearch.role"] == "trial"]
    assert len(cells) == len(set(cells))


def test_a_driver_that_dies_goes_on_elsewhere(whole: Path, s3: str, tmp_path: Path) -> None:
    """With the storage in an object store, another machine (here: another folder, with an MLflow of its own) takes over."""
    here, there, store = tmp_path / "here", tmp_path / "there", CellStore(f"{s3}/store")
    for folder in (here, there):
        folder.mkdir()
        write(folder, study(resources={"checkpoint_seconds": 0}))
    words = ("study.yaml", "--max-concurrent", "1", "--storage", f"{s3}/store")
    process = start(here, *words)
    lines = wait_for(process, "] finished", 8) + wait_for(process, "] start")  # in mid-search
    process.kill()
    said = "".join(lines) + process.communicate(timeout=120)[0]
    moved = sweep(there, *words)
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert moved.stdout.count("] finished") < 8  # what was finished is not run again
    found = records(there, store)
    assert curves(there, store) == curves(whole)
    assert {cell: record.status for cell, record in found.items()} == {c: r.status for c, r in records(whole).items()}
    assert {r.data.tags.get("ltsearch.cell") for r in runs(there)} - {None} == set(found)
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in said + moved.stdout + moved.stderr
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


def test_faults_of_trials(tmp_path: Path) -> None:
    tree = study(seeds=1, resources={"checkpoint_seconds": 0, "max_failures": 2, "hang_seconds": 3})
    del tree["search"]
    fault = {"synthetic.fault_epoch": 4}
    tree["ablation"] = {
        "rows": [
            {"name": "healthy"},
            {"name": "raises twice", "set": {**fault, "synthetic.fault": "raise", "synthetic.fault_times": 2}},
            {"name": "dies once", "set": {**fault, "synthetic.fault": "exit"}},
            {"name": "hangs once", "set": {**fault, "synthetic.fault": "hang"}},
            {"name": "always raises", "set": {**fault, "synthetic.fault": "raise", "synthetic.fault_times": 99}},
            {"name": "diverges", "set": {**fault, "synthetic.fault": "diverge"}},
            {"name": "no memory", "set": {**fault, "synthetic.fault": "out_of_memory"}},
        ]
    }
    ran = sweep(tmp_path, str(write(tmp_path, tree)))
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "Traceback" not in ran.stdout + ran.stderr
    by_name = {
        r.data.tags["ltsearch.row"].split(" · ")[0]: r
        for r in runs(tmp_path)
        if r.data.tags["ltsearch.role"] == "trial"
    }
    status = {name: run.data.tags["ltsearch.status"] for name, run in by_name.items()}
    assert status == {
        "healthy": "finished",
        "raises twice": "finished",
        "dies once": "finished",
        "hangs once": "finished",
        "always raises": "failed",
        "diverges": "diverged",
        "no memory": "out_of_memory",
    }
    # A retry is not a failure: every trial ends once, and the search would have lost those that go on.
    assert ran.stdout.count("] failed") == 1 and "(7/7, nothing left)" in ran.stdout
    assert ran.stderr.splitlines() and not any("healthy" in line or "twice" in line for line in ran.stderr.splitlines())
    assert "synthetic fault in epoch 4" in by_name["always raises"].data.tags["ltsearch.error"]
    found = {name: records(tmp_path)[run.data.tags["ltsearch.cell"]] for name, run in by_name.items()}
    (hung,) = (line for line in ran.stdout.splitlines() if "it hung" in line)
    assert "retry  hangs once · seed 0" in hung and "it was in _epochs (synthetic.py, line" in hung
    assert (
        (tmp_path / "store" / "cells" / found["hangs once"].cell / "hung.txt").read_text().startswith("Timeout (0:00:0")
    )
    for name in ("raises twice", "dies once", "hangs once"):  # the epochs before the fault were not trained again
        assert [e.epoch for e in found[name].history] == list(range(1, 10))
    assert [e.epoch for e in found["diverges"].history] == [1, 2, 3]
    report = (tmp_path / "results" / "synthetic" / "report.md").read_text()
    assert "diverged" in report and "synthetic fault" in report
    again = sweep(tmp_path, "study.yaml", "--set", "resources.max_failures=0")
    assert again.returncode == 1 and "1 of 7 cells to run" in again.stdout  # only the failed one is tried again
