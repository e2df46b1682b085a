"""Whole sweeps on a real Ray and a real MLflow store, and what they survive."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, PlanRecord, SearchRecord
from tests.ltsearch.helpers import environment, study, sweep, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def records(folder: Path) -> dict[str, CellRecord]:
    store = CellStore(folder / "store")
    return {p.parent.name: store.read(p.parent.name) for p in (folder / "store" / "cells").glob("*/record.json")}


def runs(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return list(client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Accuracy over epochs of every finished cell."""
    return {
        cell: [(e.epoch, e.metrics["train/top1"]) for e in record.history]
        for cell, record in records(folder).items()
        if record.status == "finished"
    }


def left_over() -> list[str]:
    listing = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True).stdout
    marks = (os.environ.get("RAY_TMPDIR", "/tmp/lt-ray"),)
    return [line for line in listing.splitlines() if any(m in line for m in marks) and "raylet" in line]


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


@pytest.mark.parametrize("blow", ["kill", "interrupt", "terminate"])
def test_a_driver_that_dies_loses_nothing(whole: Path, tmp_path: Path, blow: str) -> None:
    """In the ablation or the search, killed in both; afterwards every curve equals that of the undisturbed sweep."""
    path = write(tmp_path, study(resources={"checkpoint_seconds": 0}))
    for times in (3, 5) if blow == "kill" else (8,):
        process = start(tmp_path, str(path), "--max-concurrent", "1")
        wait_for(process, "] finished", times)
        wait_for(process, "] start")
        time.sleep(0.05)
        finished = {c: r.ended for c, r in records(tmp_path).items() if r is not None and r.status == "finished"}
        if blow == "kill":
            process.kill()
        else:
            process.send_signal(signal.SIGINT if blow == "interrupt" else signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        if blow != "kill":
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
    assert "retry  hangs once · seed 0" in hung and "it was in train (synthetic.py, line" in hung
    assert (
        (tmp_path / "store" / "cells" / found["hangs once"].cell / "hung.txt").read_text().startswith("Timeout (0:00:0")
    )
    for name in ("raises twice", "dies once", "hangs once"):  # the epochs before the fault were not trained again
        assert [e.epoch for e in found[name].history] == list(range(1, 10))
    assert [e.epoch for e in found["diverges"].history] == [1, 2, 3]
    report = (tmp_path / "results" / "synthetic" / "report.md").read_text()
    assert "diverged" in report and "synthetic fault" in report
    again = sweep(tmp_path, "study.yaml")
    assert again.returncode == 1 and "1 of 7 cells to run" in again.stdout  # only the failed one is tried again


def test_real_training_of_the_demo_study(tmp_path: Path) -> None:
    """A cut of the embedded study: real images, losses, artifacts, report."""
    from tests.ltsearch.helpers import ROOT

    words = [
        "--set",
        "base.training.epochs=4",
        "--seeds",
        "2",
        "--set",
        "search.trials=3",
        "--set",
        "search.confirm.top_k=1",
    ]
    words += ["--set", "search.confirm.seeds=1", "--set", "search.early_stopping.grace_epochs=1"]
    ran = sweep(tmp_path, str(ROOT / "search_spaces" / "digits_lt.yaml"), *words)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = records(tmp_path)
    finished = [r for r in found.values() if r.status == "finished" and r.config["data"]["val_per_class"] == 0]
    sweeps = tmp_path / "store" / "sweeps" / "digits_lt"
    plan = PlanRecord.model_validate_json((sweeps / "plan.json").read_bytes())
    search = SearchRecord.model_validate_json((sweeps / "search.json").read_bytes())
    rows = {cell.cell for row in plan.rows for cell in row.cells}
    (winner,) = search.confirmed  # if that is the base's own setting, which is tried first, its cell is a row's
    assert len(rows) == 9 * 2 and len(winner.cells) == 1
    assert {record.cell for record in finished} == rows | {winner.cells[0].cell}
    for record in finished:
        folder = tmp_path / "store" / "cells" / record.cell
        assert (folder / "final.npz").exists() and (folder / "weights.pt").exists()
    run = next(r for r in runs(tmp_path) if r.data.tags.get("ltsearch.cell") == finished[0].cell)
    from mlflow import MlflowClient

    names = {f.path for f in MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").list_artifacts(run.info.run_id)}
    assert names == {"record.json", "per_class.json", "final.npz"}
    per_class = json.loads((Path(run.info.artifact_uri.removeprefix("file://")) / "per_class.json").read_text())
    assert len(per_class["accuracy"]["test/ensemble"]) == len(per_class["classes"]) == 10
    report = (tmp_path / "results" / "digits_lt" / "report.md").read_text()
    for row in ("CE", "BIL + NFL", "NCL++ (ensemble)", "control: BIL, T copies"):
        assert f"| {row} " in report
    links = re.findall(r"\]\(([^)]+)\)", report)
    assert "figures/1_class_accuracy.png" in links and "figures/2_class_kl.csv" in links and "paired_1.tex" in links
    assert [link for link in links if not (tmp_path / "results" / "digits_lt" / link).is_file()] == []
    assert "nothing to draw" not in report
    fresh = sweep(tmp_path, str(ROOT / "search_spaces" / "digits_lt.yaml"), *words, "--fresh")
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    again = records(tmp_path)
    for record in finished:  # trained anew, and to the same numbers
        assert again[record.cell].ended > record.ended
        assert again[record.cell].final["test/ensemble_top1"] == record.final["test/ensemble_top1"]


def test_teachers_settings_and_adaptive_seeds(tmp_path: Path) -> None:
    """Real training on digits: a student of two teachers in two settings, with further seeds as needed."""
    tree = {
        "name": "taught",
        "base": {
            "data": {"name": "digits"},
            "model": {"backbone": "resnet8"},
            "method": {"name": "bsce"},
            "training": {"epochs": 3, "batch_size": 64},
            "schedule": {"name": "cosine"},
        },
        "seeds": {"min": 2, "max": 3, "until": {"ci_halfwidth": 1e-6}},
        "ablation": {
            "settings": {"IF 10": {"data.imbalance.factor": 10}, "IF 20": {"data.imbalance.factor": 20}},
            "rows": [
                {"name": "BIL"},
                {"name": "taught", "set": {"method": {"name": "offline_distillation", "number": 2}}},
            ],
        },
        "resources": "auto",
        "report": {"figures": [{"kind": "bars"}]},
    }
    ran = sweep(tmp_path, str(write(tmp_path, tree)))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    timed = re.search(r"auto: (\d+) trials at once on .*, (\d+) threads and ([\d.]+) GiB each", ran.stdout)
    assert timed is not None and f", {timed[1]} at once; MLflow" in ran.stdout
    (packs,) = json.loads((tmp_path / "store" / "packs.json").read_text()).values()
    assert {"trials": int(timed[1]), "threads": int(timed[2])} in [one["pack"] for one in packs]
    found = [record for record in records(tmp_path).values() if record is not None]
    methods = Counter(record.config["method"]["name"] for record in found)
    # In each setting: 3 seeds of both rows (the interval asked for cannot be reached), and 2 teachers for every student.
    assert methods == {"bsce": 2 * (3 + 6), "offline_distillation": 2 * 3}
    students = [record for record in found if record.config["method"]["name"] == "offline_distillation"]
    assert all(record.final["train/distillation"] > 0 for record in students)
    report = (tmp_path / "results" / "taught" / "report.md").read_text()
    assert "### IF 20" in report and "### All settings" in report and "figures/1_bars.png" in report
    assert "needs 6 trials (2 a seed) trained before it" in report and "IF 10: 1000000 needed, 3 taken" in report
    planned = sweep(
        tmp_path, "study.yaml", "--plan", "--set", "base.training.epochs=4"
    )  # it is known now: nothing is timed
    assert "auto, as timed here before" in planned.stdout and f": {timed[1]} at once" in planned.stdout
    again = sweep(tmp_path, "study.yaml")
    assert again.returncode == 0 and "all 24 cells are finished, nothing to run" in again.stdout
    assert (tmp_path / "results" / "taught" / "report.md").read_text() == report
