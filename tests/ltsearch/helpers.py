"""Studies for the tests, as trees and as files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ltsearch.plan.cells import make_cell
from ltsearch.store.ids import recipes
from ltsearch.store.records import CellRecord, Status
from ltsearch.study.overrides import merge, nest

ROOT = Path(__file__).resolve().parent.parent.parent


def study(**over: Any) -> dict[str, Any]:
    """A synthetic study: an ablation of three rows and a search over β and λ2."""
    tree: dict[str, Any] = {
        "name": "synthetic",
        "question": "Does it run?",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}},
            "method": {"name": "ncl_pp", "inter": False, "intra": False, "nfl": False},
            "training": {"epochs": 9},
            "synthetic": {"epoch_seconds": 0.05},
        },
        "seeds": 2,
        "ablation": {
            "components": {"NFL": {"method.nfl": True}, "InterCL": {"method.inter": True, "model.experts": 2}},
            "designs": ["add_one_in"],
            "reference": "base",
        },
        "search": {
            "val_per_class": 5,
            "trials": 8,
            "metrics": [{"name": "val/single_top1"}],
            "early_stopping": {"grace_epochs": 3, "reduction_factor": 3},
            "confirm": {"top_k": 1, "seeds": 2},
            "enqueue": [],  # the base is a row of the ablation: nothing would be trained for it
            "space": {
                "method.beta": {"uniform": [0, 1]},
                "method.lambda_inter": {"uniform": [0, 1]},
            },
        },
    }
    return merge(tree, nest(over))


def record(status: Status = Status.FINISHED, seed: int = 0, **over: Any) -> CellRecord:
    """The record of a cell: its id is the hash of its configuration."""
    cell = make_cell(study()["base"], seed, "test")
    config = cell.config.model_dump(mode="json")
    return CellRecord(cell=cell.id, config=config, recipes=recipes(cell.config), status=status, **over)


def write(folder: Path, tree: dict[str, Any], name: str = "study.yaml") -> Path:
    """The study as a file."""
    path = folder / name
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


@cache
def empty_mlflow() -> bytes:
    """A SQLite store of MLflow with nothing in it. To make one takes seconds, for every sweep of the tests."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return Path(folder, "mlflow.db").read_bytes()


def environment(folder: Path) -> dict[str, str]:
    """For commands that are run in a folder of their own."""
    if not (folder / "mlflow.db").exists():
        (folder / "mlflow.db").write_bytes(empty_mlflow())
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp/lt-ray"),
        "CUDA_VISIBLE_DEVICES": "",
    }


def sweep(folder: Path, *words: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """``python -m ltsearch.sweep`` in ``folder``."""
    command = [sys.executable, "-m", "ltsearch.sweep", *words]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=timeout, check=False
    )


OBJECTS = 80_000_000  # bytes of a node's object store


@contextmanager
def ray_cluster(**head: Any) -> Iterator[Any]:
    """A cluster of Ray's test utilities, which has its head so far and no dashboard; ``add_node`` adds to it."""
    from ray.cluster_utils import Cluster

    options = {"include_dashboard": False, "object_store_memory": OBJECTS, **head}
    for tries_left in (2, 1, 0):
        try:
            made = Cluster(initialize_head=True, head_node_args=options)
            break
        except Exception:  # a busy machine takes longer than Ray's parts wait for each other
            if not tries_left:
                raise
    try:
        yield made
    finally:
        made.shutdown()


def marked(mark: str) -> dict[int, str]:
    """Processes that inherited the mark, by id, with their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return found
