"""Whole sweeps that really train: the demo, and a student of teachers with as many seeds as it takes."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ltsearch.store.records import PlanRecord, SearchRecord
from tests.ltsearch.helpers import ROOT, sweep, write
from tests.ltsearch.test_sweep import records, runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_real_training_of_the_demo_study(tmp_path: Path) -> None:
    """A cut of the embedded study: real images, losses, artifacts, report."""
    short = ["--set", "base.training.epochs=2", "--set", "base.schedule.warmup_epochs=1"]
    keys = ("trials=3", "confirm.top_k=1", "confirm.seeds=1", "early_stopping.grace_epochs=1")
    search = [word for key in keys for word in ("--set", f"search.{key}")]
    ran = sweep(tmp_path, str(ROOT / "search_spaces" / "digits_lt.yaml"), *short, *search, "--seeds", "2")
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
    few = ["--seeds", "1", "--set", "search=null", "--fresh"]
    fresh = sweep(tmp_path, str(ROOT / "search_spaces" / "digits_lt.yaml"), *short, *few)
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr
    again = records(tmp_path)
    anew = [record for record in finished if again[record.cell].ended > record.ended]
    assert len(anew) == 9  # and to the same numbers
    for record in anew:
        assert again[record.cell].final["test/ensemble_top1"] == record.final["test/ensemble_top1"]


def test_teachers_settings_and_adaptive_seeds(tmp_path: Path) -> None:
    """Real training on digits: a student of two teachers in two settings, with further seeds as needed."""
    tree = {
        "name": "taught",
        "base": {
            "data": {"name": "digits"},
            "model": {"backbone": "resnet8"},
            "method": {"name": "bsce"},
            "training": {"epochs": 1, "batch_size": 64},
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
    found = list(records(tmp_path).values())
    methods = Counter(record.config["method"]["name"] for record in found)
    # In each setting: 3 seeds of both rows (the interval asked for cannot be reached), and 2 teachers for every student.
    assert methods == {"bsce": 2 * (3 + 6), "offline_distillation": 2 * 3}
    students = [record for record in found if record.config["method"]["name"] == "offline_distillation"]
    assert all(record.final["train/distillation"] > 0 for record in students)
    report = (tmp_path / "results" / "taught" / "report.md").read_text()
    assert "### IF 20" in report and "### All settings" in report and "figures/1_bars.png" in report
    assert "needs 6 trials (2 a seed) trained before it" in report and "IF 10: 1000000 needed, 3 taken" in report
    # It is known now, so that nothing is timed.
    planned = sweep(tmp_path, "study.yaml", "--plan", "--set", "base.training.epochs=2")
    assert "auto, as timed here before" in planned.stdout and f": {timed[1]} at once" in planned.stdout
    again = sweep(tmp_path, "study.yaml")
    assert again.returncode == 0 and "all 24 cells are finished, nothing to run" in again.stdout
    assert (tmp_path / "results" / "taught" / "report.md").read_text() == report
