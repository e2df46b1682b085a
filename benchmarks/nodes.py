"""Many nodes, pretended by Ray's cluster utilities: how trials spread over them, fill them, follow as they come and go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Row, Spread
from trainables.files import Location

TITLE = "A sweep on many nodes"
NODES = {False: 64, True: 4}
FIRST, LOST = 2, 8  # nodes at the start, and taken away at once
EPOCH_SECONDS = {False: 110.0, True: 15.0}
EPOCHS = 2
GROUP = 2  # nodes that start together: each is three processes
# Nodes that share two cores are slow to answer, and are to start no process that nobody asked for.
PATIENT = {
    "RAY_health_check_period_ms": "10000",
    "RAY_health_check_timeout_ms": "30000",
    "RAY_health_check_failure_threshold": "20",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_AUTH_MODE": "disabled",
}
# Bytes that a pretended node says it has. Left to Ray, each would claim what of this machine is left: the first the most.
MEMORY, STORE = 4_000_000_000, 80_000_000
ROOT = Path(__file__).resolve().parent.parent


def run(quick: bool) -> list[Row]:
    """A search of trials that train nothing, two workers each, so one a node: from two nodes to all, less eight, to its end."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ |= PATIENT
    count = NODES[quick]
    lost = min(LOST, count // 4)
    rows: list[Row] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lt-nodes-") as folder:
        head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = _add(cluster, FIRST, Path(folder))
            sweep = _Sweep(Path(folder), cluster.address, 2 * count, EPOCH_SECONDS[quick])
            try:
                sweep.until(180, lambda: len(sweep.running()) >= FIRST)
                nodes += _add(cluster, count - FIRST, Path(folder))
                came = time.perf_counter()
                rows.append(_row(f"{count - FIRST} nodes more: until Ray has them", "s", came - sweep.seen))
                sweep.until(900, lambda: len(sweep.running()) >= count)
                ramp = time.perf_counter() - came
                ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
                spread = _actors()
                ray.shutdown()
                rows.append(_row(f"then, until {count} trials run", "s", ramp))
                rows.append(_row(f"trials' actors on one of {count} nodes, at most", "", max(spread.values())))
                sweep.look()
                before = sweep.told("retry")
                for node in nodes[:lost]:
                    cluster.remove_node(node, allow_graceful=False)
                gone = time.perf_counter()
                sweep.until(300, lambda: sweep.told("retry") > before)
                rows.append(
                    _row(f"{lost} nodes killed at once: until the sweep tells", "s", time.perf_counter() - gone)
                )
                code = sweep.process.wait(1800)
            finally:
                sweep.process.kill()
                sweep.process.wait()
            sweep.look()
            rows.append(_row("trials with a result, of all", "", sweep.over(), f"of {2 * count}, exit code {code}"))
            rows.append(_row("all of it", "s", time.perf_counter() - began))
        finally:
            cluster.shutdown()
    return rows


def sleeps(parameters: Mapping[str, Any], seed: int, folder: Location | None) -> Iterator[dict[str, float]]:
    """A trial that trains nothing and goes on where it was."""
    assert isinstance(folder, Path)
    done = len(list(folder.glob("*")))
    for epoch in range(done + 1, EPOCHS + 1):
        time.sleep(parameters["seconds"])
        yield {"epoch": epoch, "val/accuracy": float(parameters["x"])}
        (folder / str(epoch)).touch()


class _Sweep:
    """One that runs, and what it says."""

    def __init__(self, folder: Path, address: str, trials: int, seconds: float) -> None:
        self.log, self.text = folder / "log", ""
        study = {
            "name": "nodes",
            "base": {
                "data": {"name": "digits", "imbalance": {"factor": 10}},
                "training": {"epochs": EPOCHS},
                "custom": {"function": "benchmarks.nodes:sleeps", "parameters": {"seconds": seconds, "x": 0.5}},
            },
            "search": {
                "sampler": "random",
                "val_per_class": 5,
                "trials": trials,
                "metrics": [{"name": "val/accuracy"}],
                "confirm": None,
                "early_stopping": None,
                "space": {"custom.parameters.x": {"uniform": [0, 1]}},
            },
            "resources": {"workers": 2, "placement": "spread"},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        words = [sys.executable, "-m", "ltsearch.sweep", "study.yaml", "--address", address]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        with self.log.open("w") as out:
            self.process = subprocess.Popen(words, cwd=folder, env=env, stdout=out, stderr=out)
        self.seen = 0.0

    def look(self) -> None:
        self.text = self.log.read_text()

    def told(self, what: str) -> int:
        return len(re.findall(rf"\] {what}  ", self.text))

    def over(self) -> int:
        return self.told("finished") + self.told("pruned")

    def running(self) -> set[str]:
        started = re.findall(r"\] start  (.*?)  \(", self.text)
        return set(started) - set(re.findall(r"\] (?:finished|pruned|failed)  (.*?)  ", self.text))

    def until(self, seconds: float, true: Callable[[], bool]) -> None:
        deadline = time.perf_counter() + seconds
        self.look()
        while not true():
            if self.process.poll() is not None or time.perf_counter() > deadline:
                raise RuntimeError(f"not in {seconds:g} s; the sweep said:\n{self.text[-3000:]}")
            time.sleep(0.2)
            self.look()
        self.seen = time.perf_counter()


def _add(cluster: Any, count: int, folder: Path) -> list[Any]:
    """Each with a folder of its own: where they share Ray's, each unpacks the sweep's code anew under the others' feet."""
    nodes: list[Any] = []
    while len(nodes) < count:
        for _ in range(min(GROUP, count - len(nodes))):
            own = tempfile.mkdtemp(prefix="", dir=folder)
            what = {"num_cpus": 2, "memory": MEMORY, "object_store_memory": STORE, "temp_dir": own}
            nodes.append(cluster.add_node(wait=False, **what))
        cluster.wait_for_nodes(timeout=300)
    return nodes


def _actors() -> Counter[str]:
    """Living actors of trials, by node. The public list asks the dashboard, which is not there."""
    from ray._private.state import actors

    alive = [one for one in actors().values() if one["State"] == "ALIVE" and "Trainable" in one["ActorClassName"]]
    return Counter(one["Address"]["NodeID"] for one in alive)


def _row(what: str, unit: str, value: float, note: str = "") -> Row:
    return Row(what, unit, ours=Spread(value, value, value), note=note)
