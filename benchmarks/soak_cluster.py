"""What the soak disturbs: a cluster, an MLflow server, a small disk, and the drivers of one sweep or several."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.mlflow_server import MlflowServer
from benchmarks.sweeps import ROOT
from ltsearch.show.status import read
from ltsearch.store.cells import CellStore
from ltsearch.store.records import SETTLED, CellRecord, Status

SECONDS_TO_RECOVER = 600.0


def wait(what: Callable[[], bool]) -> None:
    """Until it is so; raises ``RuntimeError`` if it takes too long."""
    deadline = time.monotonic() + SECONDS_TO_RECOVER
    while not what():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not recovered within {SECONDS_TO_RECOVER:g} s")
        time.sleep(0.2)


class Driver:
    """One sweep, and the process that drives it."""

    def __init__(self, folder: Path, study: dict[str, Any], store: CellStore, options: Sequence[str]) -> None:
        self.folder, self.store, self.name = folder, store, study["name"]
        (folder / f"{self.name}.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        self.command = [sys.executable, "-m", "ltsearch.sweep", f"{self.name}.yaml", *options]
        self.unasked: list[int] = []  # exit codes of its drivers that ended, and were not ended, before all was done
        self.drive()

    def drive(self) -> None:
        """Start the sweep, or go on with it."""
        with open(self.folder / f"{self.name}.out", "ab") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def running(self) -> dict[str, int]:
        """Epochs of the trials that are at work."""
        status = read(self.store.sweep_folder(self.name))
        of_this = status is not None and status.pid == self.process.pid  # not of one that was killed
        return {t.cell: t.epoch for t in status.running} if status is not None and of_this else {}

    def is_over(self) -> bool:
        """Has it ended by itself? One that was refused by a full disk is started again."""
        if self.process.poll() is None:
            return False
        if self.process.returncode == 0:
            return True
        self.unasked.append(self.process.returncode)
        self.drive()
        return False

    def end(self, how: signal.Signals) -> None:
        """Kill or interrupt it, and type the same command again."""
        self.process.send_signal(how)
        self.process.wait(120)
        self.drive()

    def finish(self) -> int:
        """Let it come to its end; returns how often the command had to be typed again for what had failed."""
        again = 0
        while self.process.wait(3600) != 0:
            again += 1
            if again > 5:
                raise RuntimeError("the sweep does not come to an end")
            self.drive()
        return again

    def said(self) -> str:
        """All that it has printed."""
        return (self.folder / f"{self.name}.out").read_text(errors="replace")


class Soaked:
    """The cluster, the server, the disk, the drivers."""

    def __init__(self, folder: Path, studies: Sequence[dict[str, Any]]) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.disk = folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.disk], check=True)
        self.store = CellStore(self.disk / "store")
        self.server = MlflowServer(folder)
        self.server.start()
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False},
        )
        self.nodes: list[Any] = []
        options = ["--address", self.cluster.address, "--storage", str(self.disk / "store")]
        options += ["--tracking-uri", self.server.uri]
        self.doubled = 0  # looks at which two sweeps were at work on one cell
        self.drivers = [Driver(folder, study, self.store, options) for study in studies]

    # -- parts -----------------------------------------------------------------------------------------------------------

    def running(self) -> dict[str, int]:
        """Epochs of the trials that are at work, of all sweeps."""
        each = [driver.running() for driver in self.drivers]
        self.doubled += len(each) > 1 and bool(set.intersection(*map(set, each)))
        return {cell: epoch for one in each for cell, epoch in one.items()}

    def is_over(self) -> bool:
        """Have all sweeps ended by themselves?"""
        return all([driver.is_over() for driver in self.drivers])

    def records(self) -> dict[str, CellRecord]:
        """All there are."""
        cells = [p.parent.name for p in self.disk.glob("store/cells/*/record.json")]
        return {cell: record for cell in cells if (record := self.store.read(cell)) is not None}

    def settled(self) -> dict[str, CellRecord]:
        """Those that are done, or were stopped by the search."""
        done = {*SETTLED, Status.PRUNED}
        return {cell: record for cell, record in self.records().items() if record.status in done}

    def processes(self, *names: str) -> list[int]:
        """Of this cluster, by what their command begins with."""
        found = []
        mark = f"RAY_TMPDIR={os.environ['RAY_TMPDIR']}".encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if command.startswith(names) and mark in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def close(self) -> None:
        """End everything."""
        for driver in self.drivers:
            if driver.process.poll() is None:
                os.killpg(driver.process.pid, signal.SIGKILL)
                driver.process.wait()
        self.server.stop()
        self.cluster.shutdown()
        subprocess.run(["umount", "-l", self.disk], check=False)

    # -- faults ----------------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], None]]:
        """What can be done now."""
        trials = self.processes("ray::CellTrial", "ray::ResourceTrainable")
        workers = self.processes("ray::RayTrainWorker", "ray::TrainWorker")
        possible: dict[str, Callable[[], None]] = {
            "driver killed": lambda: random.choice(self.drivers).end(signal.SIGKILL),
            "driver interrupted": lambda: random.choice(self.drivers).end(signal.SIGINT),
            "tracking server away for 20 s": self.server_away,
            "disk full for 5 s": self.disk_full,
        }
        if trials:
            possible["trial process killed"] = lambda: os.kill(random.choice(trials), signal.SIGKILL)
        if workers:
            possible["worker process killed"] = lambda: os.kill(random.choice(workers), signal.SIGKILL)
        if len(self.nodes) < 2:
            possible["node added"] = self.add_node
        if self.nodes:
            possible["node lost"] = lambda: self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)
        return possible

    def add_node(self) -> None:
        """One CPU more."""
        self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20))

    def server_away(self) -> None:
        """Kill it, wait, start it again."""
        self.server.stop()
        time.sleep(20)
        self.server.start(wait=False)

    def disk_full(self) -> None:
        """Not a byte left, for a while."""
        filler = self.disk / "filler"
        try:
            with open(filler, "wb") as file:
                while True:
                    file.write(b"\0" * 2**16)
        except OSError:
            pass
        time.sleep(5)
        filler.unlink()
