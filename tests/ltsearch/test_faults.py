"""What happens around a sweep: nodes that come and go, a tracking server that is away, a full disk, a driver beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mlflow_server import MlflowServer
from ltsearch.show.status import SweepStatus
from ltsearch.show.status import read as read_status
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.ltsearch.helpers import OBJECTS, environment, ray_cluster, study, sweep, write
from trainables import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


TRIAL = ("ray::ResourceTrainable", "ray::CellTrial")  # how Ray names a trial's process


def records(store: CellStore, cells: list[str]) -> dict[str, CellRecord]:
    return {cell: record for cell in cells if (record := store.read(cell)) is not None}


def local(folder: Path) -> dict[str, CellRecord]:
    cells = [p.parent.name for p in (folder / "store" / "cells").glob("*/record.json")]
    return records(CellStore(folder / "store"), cells)


def curves(found: dict[str, CellRecord]) -> dict[str, list[tuple[int, float]]]:
    return {
        cell: [(e.epoch, e.metrics["train/top1"]) for e in record.history]
        for cell, record in found.items()
        if record.status == "finished"
    }


def start(folder: Path, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ltsearch.sweep", *words],
        cwd=folder,
        env={**environment(folder), "PYTHONUNBUFFERED": "1", **env},
        stdout=open(folder / "output", "w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait(what: Callable[[], object], seconds: float, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        assert process is None or process.poll() is None, "the sweep has ended"
        time.sleep(0.1)


def ablation(**over: Any) -> dict[str, Any]:
    tree = study(**over)
    del tree["search"]
    return tree


# -- nodes -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head of one CPU; nodes of one more can be added. All share this machine's address."""
    monkeypatch.setenv(
        "RAY_AUTH_MODE", "disabled"
    )  # whatever lies in this home; tests/cluster has clusters with a token
    Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").mkdir(parents=True, exist_ok=True)  # Ray expects it
    with ray_cluster(num_cpus=1) as made:
        yield made


def test_nodes_come_and_go(cluster: Any, tmp_path: Path) -> None:
    """A node that is added in mid-sweep is used; one that is lost costs its trial's last epochs, and nothing else."""
    tree = ablation()
    tree["base"]["synthetic"] = {"epoch_seconds": 1.5}  # long beside the start of an actor
    tree["resources"] = {"checkpoint_seconds": 0}
    tree["seeds"] = 3  # work enough for a node that takes a minute to come up, as on a machine that is busy
    path = write(tmp_path, tree)
    process = start(tmp_path, str(path), "--address", cluster.address)
    folder = CellStore(tmp_path / "store").sweep_folder("synthetic")

    def status() -> SweepStatus | None:
        return read_status(folder)

    def at_work(trials: int, nodes: int) -> bool:
        now = status()
        return now is not None and len(now.nodes) == nodes and len([t for t in now.running if t.epoch >= 2]) >= trials

    try:
        wait(lambda: at_work(1, 1), 200, process)
        node = cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
        wait(lambda: at_work(2, 2), 200, process)  # both nodes train
        cluster.remove_node(node, allow_graceful=False)
        wait(lambda: at_work(1, 1), 200, process)
        assert process.wait(400) == 0, (tmp_path / "output").read_text()
    finally:
        process.kill()
        process.wait()
    last = status()
    assert last is not None and last.retries >= 1 and not last.failures
    found = local(tmp_path)
    assert len(found) == 9 and all(record.status == "finished" for record in found.values())
    assert all([e.epoch for e in record.history] == list(range(1, 10)) for record in found.values())


def broken(folder: Path) -> dict[str, str]:
    """The environment of a node on which torch cannot be imported, as where a driver's library is missing.

    Nor what trains nothing, which needs no torch.
    """
    folder.mkdir()
    hook = (
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'trainables.synthetic'):\n"
        "            raise ImportError('libcudart.so.13: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    (folder / "sitecustomize.py").write_text(hook)
    return {"PYTHONPATH": str(folder)}


def test_a_node_that_cannot_set_up_a_trial_is_left_alone(cluster: Any, tmp_path: Path) -> None:
    """It costs no trial a retry, and is named once; what it was to do is done by the other."""
    cluster.add_node(num_cpus=4, object_store_memory=OBJECTS, env_vars=broken(tmp_path / "hook"))
    tree = ablation(resources={"max_failures": 0})
    ran = sweep(tmp_path, str(write(tmp_path, tree)), "--address", cluster.address)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    told = [line for line in ran.stdout.splitlines() if "left alone for a growing while" in line]
    assert len(told) == 1 and "libcudart.so.13: cannot open shared object file" in told[0], ran.stdout
    assert all(record.status == "finished" for record in local(tmp_path).values())


def test_with_no_node_that_can_set_up_a_trial_the_sweep_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one machine: the driver itself needs no torch before its first trial."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray").mkdir(parents=True, exist_ok=True)
    with ray_cluster(num_cpus=0) as made:
        made.add_node(num_cpus=2, object_store_memory=OBJECTS, env_vars=broken(tmp_path / "hook"))
        ran = sweep(tmp_path, str(write(tmp_path, ablation())), "--address", made.address)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr, ran.stdout + ran.stderr
    said = ran.stderr.splitlines()[-1]
    assert "no node is left on which a trial can be set up: " in said and "libcudart.so.13" in said


def training(folder: Path, sweep: str) -> bool:
    """Is a trial past its first epoch?"""
    now = read_status(CellStore(folder / "store").sweep_folder(sweep))
    return now is not None and any(trial.epoch >= 1 for trial in now.running)


def trial_process(cluster: Any) -> int:
    """One that trains, of this cluster and not of the Ray beside it."""
    raylets = {str(node.all_processes["raylet"][0].process.pid) for node in cluster.list_all_nodes()}
    listing = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()[1:]]
    found = [int(pid) for pid, parent, args in rows if parent in raylets and args.startswith(TRIAL)]
    assert found, listing
    return found[0]


def test_nothing_stays_taken(cluster: Any, tmp_path: Path) -> None:
    """5 trials of 2 × 0.5 CPU under ASHA on a cluster of a CPU, with a second Ray on the machine: none waits for ever.

    One trial's process is killed on the way: what its worker group held is given back.
    """
    import ray
    from ray.util import placement_group_table

    tree: dict[str, Any] = {
        "name": "freed",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.5},
            "model": {"backbone": "resnet8"},
            "method": {"name": "bsce"},
            "training": {"epochs": 8, "batch_size": 32},
        },
        "search": {
            "val_per_class": 10,
            "trials": 5,
            "metrics": [{"name": "val/single_top1"}],
            "early_stopping": {"grace_epochs": 1, "reduction_factor": 2},
            "confirm": None,
            "space": {"optimizer.lr": {"loguniform": [0.01, 0.5]}},
        },
        "resources": {"workers": 2, "cpus_per_worker": 0.5},
    }
    path = write(tmp_path, tree)
    second = tmp_path / "second"
    second.mkdir()
    other = study()
    other["base"]["synthetic"] = {"epoch_seconds": 0.5}
    beside = start(second, str(write(second, other)), "--local")  # a Ray of its own
    process = start(tmp_path, str(path), "--address", cluster.address)
    try:
        wait(lambda: training(tmp_path, "freed"), 400, process)
        os.kill(trial_process(cluster), 9)
        assert process.wait(480) == 0, (tmp_path / "output").read_text()
    finally:
        for one in (process, beside):
            one.kill()
            one.wait()
    assert "retry" in (tmp_path / "output").read_text()
    states = [str(record.status) for record in local(tmp_path).values()]
    assert len(states) == 5 and set(states) == {"finished", "pruned"}
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        deadline = time.monotonic() + 60
        while ray.available_resources().get("CPU") != 1.0 and time.monotonic() < deadline:
            time.sleep(0.5)
        held = {group: entry for group, entry in placement_group_table().items() if entry["state"] != "REMOVED"}
        assert not held and ray.available_resources()["CPU"] == 1.0, ray.available_resources()
        assert placement_group_table()  # there were some
    finally:
        ray.shutdown()


# -- the tracking server -----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_the_tracking_server_is_away_for_a_while(server: MlflowServer, tmp_path: Path) -> None:
    """Trials go on; what they tell is sent when it is back, in order, nothing twice."""
    from mlflow import MlflowClient

    tree = ablation()
    tree["base"]["synthetic"] = {"epoch_seconds": 0.3}
    path = write(tmp_path, tree)
    process = start(tmp_path, str(path), "--tracking-uri", server.uri, "--max-concurrent", "1")
    output = tmp_path / "output"
    try:
        wait(lambda: "] finished" in output.read_text(), 200, process)
        server.stop()
        away = time.monotonic()
        wait(lambda: output.read_text().count("] finished") >= 3, 120, process)  # nobody waits for it
        time.sleep(max(0.0, 30 - (time.monotonic() - away)))
        server.start()
        assert process.wait(400) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert "gave up" not in output.read_text()
    client = MlflowClient(server.uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    trials = {r.data.tags["ltsearch.cell"]: r for r in runs if r.data.tags["ltsearch.role"] == "trial"}
    found = local(tmp_path)
    assert len(runs) == 1 + len(trials) and trials.keys() == found.keys()
    for cell, run in trials.items():
        history = client.get_metric_history(run.info.run_id, "train/top1")
        assert [(m.step, m.value) for m in history] == curves(found)[cell]
        assert [m.timestamp for m in history] == sorted(m.timestamp for m in history)
        assert run.info.status == "FINISHED"


# -- the disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(disk: Path, tmp_path: Path) -> None:
    """A trial whose checkpoint does not fit fails with that reason; others go on; with space again it goes on too."""
    tree = {
        "name": "disk",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.5},
            "model": {"backbone": "resnet8"},
            "method": {"name": "bsce"},
            "training": {"epochs": 8, "batch_size": 64},
        },
        "seeds": 1,
        "ablation": {
            "rows": [
                {"name": "large", "set": {"model.backbone": "resnet44"}},  # a checkpoint of 5 MB
                {"name": "small", "set": {}},  # of 0.7 MB
            ]
        },
        "resources": {"checkpoint_seconds": 0, "max_failures": 1},
    }
    path = write(tmp_path, tree)
    words = (str(path), "--storage", str(disk / "store"), "--max-concurrent", "1")
    process = start(tmp_path, *words)
    try:
        wait(lambda: list(disk.glob("store/cells/*/checkpoint.pt")), 200, process)
        (kept,) = disk.glob("store/cells/*/checkpoint.pt")
        filler = disk / "filler"
        space = os.statvfs(disk)
        filler.write_bytes(b"\0" * (space.f_bavail * space.f_frsize - 3 * 2**20))
        assert process.wait(400) == 1
    finally:
        process.kill()
        process.wait()
    output = (tmp_path / "output").read_text()
    assert "failed: large" in output and "No space left on device" in output, output
    store = CellStore(disk / "store")
    cells = [p.parent.name for p in disk.glob("store/cells/*/record.json")]
    states = {str(record.config["model"]["backbone"]): record for record in records(store, cells).values()}
    assert {name: str(record.status) for name, record in states.items()} == {
        "resnet44": "failed",
        "resnet8": "finished",
    }
    state = checkpoint.load(kept)
    assert state is not None and 1 <= state["epoch"] < 8
    before = states["resnet44"].history[: state["epoch"]]
    assert not list(disk.glob("store/cells/*/.*.tmp"))

    filler.unlink()
    again = sweep(tmp_path, *words)
    assert again.returncode == 0, again.stderr
    for record in records(store, cells).values():
        assert str(record.status) == "finished" and [e.epoch for e in record.history] == list(range(1, 9))
        if (
            record.config["model"]["backbone"] == "resnet44"
        ):  # its first epochs, to their seconds: they were not trained again
            assert record.history[: len(before)] == before


# -- the driver --------------------------------------------------------------------------------------------------------


def test_two_sweeps_train_what_they_share_once(tmp_path: Path) -> None:
    """Two drivers with an MLflow each on one storage; the first is killed, and the second takes over what it was training."""
    first, second, shared = (tmp_path / name for name in ("first", "second", "shared"))
    # Nine cells of ten seconds: the second must have started, on a busy machine too, before the first is through.
    tree = ablation(**{"base.synthetic": {"epoch_seconds": 1.0}, "resources.checkpoint_seconds": 0, "seeds": 3})
    words = ("study.yaml", "--storage", str(shared), "--max-concurrent", "1")
    for folder, name in ((first, "one"), (second, "another")):
        folder.mkdir()
        write(folder, {**tree, "name": name})
    store, running = CellStore(shared), [start(first, *words)]

    def at_work(sweep: str, epochs: int) -> set[str]:
        now = read_status(store.sweep_folder(sweep))
        return {trial.cell for trial in now.running if trial.epoch >= epochs} if now is not None else set()

    try:
        wait(lambda: at_work("one", 1), 200, running[0])
        running.append(start(second, *words))
        wait(lambda: at_work("another", 1), 200, running[1])
        wait(lambda: at_work("one", 2), 120, running[0])
        left = at_work("one", 2)
        running[0].kill()
        assert not left & at_work("another", 0)
        assert running[1].wait(400) == 0, (second / "output").read_text()
    finally:
        for process in running:
            process.kill()
            process.wait()
    begun = [re.findall(r"\] start .*\((\w+)\)", (folder / "output").read_text()) for folder in (first, second)]
    cells = store.cells()
    assert len(cells) == 9 and all(str(r.status) == "finished" for r in records(store, cells).values())
    # All others were trained by one of the two; that one by both, unless the killed driver's actor still came to its end.
    assert set(begun[0]) & set(begun[1]) <= left
    assert "is training it; it is waited for" in (second / "output").read_text()
    assert all([e.epoch for e in record.history] == list(range(1, 10)) for record in records(store, cells).values())
    again = sweep(first, *words)
    assert again.returncode == 0 and "nothing to run" in again.stdout, again.stdout + again.stderr
