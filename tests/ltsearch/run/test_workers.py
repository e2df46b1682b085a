"""Trials of two workers through the real command: the numbers of one worker, though a worker is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.ltsearch.helpers import environment, marked, sweep, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def study(workers: int, epochs: int = 4, **over: Any) -> dict[str, Any]:
    return {
        "name": "workers",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.5},
            "model": {"backbone": "resnet8"},
            "method": {"name": "ncl_pp", "inter": False, "intra": False},
            "training": {"epochs": epochs, "batch_size": 32, "precision": "fp64"},
        },
        "seeds": 1,
        "ablation": {
            "components": {"InterCL": {"method.inter": True, "model.experts": 2}},
            "rows": [{"name": "BIL"}, {"name": "InterCL", "with": ["InterCL"]}],
        },
        "resources": {"workers": workers, "cpus_per_worker": 0.5, "checkpoint_seconds": 0},
        **over,
    }


def records(folder: Path) -> dict[str, CellRecord]:
    store = CellStore(folder / "store")
    return {p.parent.name: store.read(p.parent.name) for p in (folder / "store" / "cells").glob("*/record.json")}


def curves(folder: Path) -> dict[str, list[list[float]]]:
    keys = ("train/loss", "train/top1")
    return {cell: [[e.metrics[k] for k in keys] for e in record.history] for cell, record in records(folder).items()}


def same(ours: dict[str, list[list[float]]], theirs: dict[str, list[list[float]]]) -> bool:
    assert ours.keys() == theirs.keys()
    return all(
        epoch == pytest.approx(other, rel=1e-9)
        for cell in theirs
        for epoch, other in zip(ours[cell], theirs[cell], strict=True)
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One worker, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    ran = sweep(folder, str(write(folder, study(1))))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def test_two_workers_give_the_numbers_of_one_though_one_is_killed(alone: Path, tmp_path: Path) -> None:
    """Its group goes with it, another one takes the trial up at its checkpoint; the second trial is left undisturbed."""
    mark = uuid.uuid4().hex
    tree = study(2)
    tree["resources"]["max_concurrent"] = 1
    command = [sys.executable, "-m", "ltsearch.sweep", str(write(tmp_path, tree))]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environment(tmp_path), "LTSEARCH_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not list((tmp_path / "store").glob("cells/*/checkpoint.pt")):  # an epoch is over
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        workers = [pid for pid, line in marked(mark).items() if "RayTrainWorker" in line]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "] retry" in output and "Traceback" not in output
    assert same(curves(tmp_path), curves(alone))
    ours, theirs = records(tmp_path), records(alone)
    for cell, record in theirs.items():
        assert ours[cell].final["test/ensemble_top1"] == pytest.approx(record.final["test/ensemble_top1"])
        assert (tmp_path / "store" / "cells" / cell / "final.npz").exists()
    assert marked(mark) == {}  # no worker, no raylet


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"workers": 3}, "resources.workers = 3 does not divide training.batch_size = 32"),
        ({"workers": 4096, "cpus_per_worker": 1}, "room for 4096 workers (1 CPU each)"),
        ({"workers": 2, "gpus_per_worker": 1}, "one worker of a trial needs 1 GPUs (the largest node has 0)"),
    ],
)
def test_what_cannot_be_laid_out(tmp_path: Path, resources: dict[str, Any], message: str) -> None:
    tree = study(1)
    tree["resources"] |= resources
    tree["base"]["training"]["batch_size"] = 32
    ran = sweep(tmp_path, str(write(tmp_path, tree)))
    assert ran.returncode == 2 and message in ran.stderr and "Traceback" not in ran.stderr
    assert not (tmp_path / "store").exists()
