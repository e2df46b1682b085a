"""``python -m benchmarks.soak {synthetic,training} OUT``: a sweep that is disturbed at random, and the account of it.

A cluster of up to three nodes on this machine, an MLflow server, a small disk for the storage (needs root), and a driver. Each
fault is one of: a trial's process killed, a worker process killed, a node lost, a node added, the driver killed, the driver
interrupted, the tracking server away, the disk full. A fault is over when every trial that it found running has come further
than it was. What was finished before must be there, unchanged; in the end every curve is compared with that of a sweep that
nothing disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analysis.markdown import table
from benchmarks.soak_studies import STUDIES
from benchmarks.sweeps import ROOT
from ltsearch.show.status import SweepStatus, read
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import collect
from ltsearch.store.records import SETTLED, CellRecord, Status

SECONDS_TO_RECOVER = 600.0


@dataclass
class Fault:
    """One line of the account."""

    number: int
    kind: str
    at: float  # seconds since the soak began
    running: int
    finished: int
    lost: int = 0  # cells that were finished before and are not, or differ, after
    recovery: float | None = None  # seconds; None: nothing ran that could go on


class Soak:
    """The cluster, the server, the disk, the driver."""

    def __init__(self, folder: Path, study: dict[str, Any]) -> None:
        from ray.cluster_utils import Cluster

        self.folder, self.study = folder, study
        (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        self.disk = folder / "disk"
        self.disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", self.disk], check=True)
        self.store = CellStore(self.disk / "store")
        self.port = 5100 + os.getpid() % 800
        self.server: subprocess.Popen[bytes] | None = None
        self.serve()
        self.wait(self.server_answers)
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False},
        )
        self.nodes: list[Any] = []
        self.driver: subprocess.Popen[bytes] | None = None
        self.unasked: list[int] = []  # exit codes of drivers that ended, and were not ended, before all was done
        self.drive()

    # -- parts -----------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Start the MLflow server."""
        words = [
            *(
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            )
        ]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = subprocess.DEVNULL
        self.server = subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)

    def server_answers(self) -> bool:
        """Is the MLflow server up?"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def drive(self) -> None:
        """Start the sweep, or go on with it."""
        command = [sys.executable, "-m", "ltsearch.sweep", "study.yaml", "--address", self.cluster.address]
        command += ["--storage", str(self.disk / "store"), "--tracking-uri", f"http://127.0.0.1:{self.port}"]
        with open(self.folder / "output", "ab") as output:
            self.driver = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": ""},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def status(self) -> SweepStatus | None:
        """What the driver wrote last."""
        return read(self.store.sweep_folder("soak"))

    def running(self) -> dict[str, int]:
        """Epochs of the trials that are at work."""
        status = self.status()
        return {t.cell: t.epoch for t in status.running} if status is not None else {}

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
        for process in (self.driver, self.server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.cluster.shutdown()
        subprocess.run(["umount", "-l", self.disk], check=False)

    # -- faults ----------------------------------------------------------------------------------------------------------

    def faults(self) -> dict[str, Callable[[], None]]:
        """What can be done now."""
        trials = self.processes("ray::CellTrial", "ray::ResourceTrainable")
        workers = self.processes("ray::RayTrainWorker", "ray::TrainWorker")
        possible: dict[str, Callable[[], None]] = {
            "driver killed": lambda: self.end_driver(signal.SIGKILL),
            "driver interrupted": lambda: self.end_driver(signal.SIGINT),
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

    def end_driver(self, how: signal.Signals) -> None:
        """Kill or interrupt it, and type the same command again."""
        assert self.driver is not None
        self.driver.send_signal(how)
        self.driver.wait(120)
        self.drive()

    def server_away(self) -> None:
        """Kill it, wait, start it again."""
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        time.sleep(20)
        self.serve()

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

    # -- the soak --------------------------------------------------------------------------------------------------------

    def soak(self, faults: int, account: Callable[[list[Fault]], None]) -> list[Fault]:
        """So many faults; ``account`` is called after each."""
        began, done = time.monotonic(), []
        self.wait(lambda: not self.is_over() and any(epoch >= 1 for epoch in self.running().values()))
        history: list[str] = []
        while len(done) < faults:
            time.sleep(random.uniform(1, 6))
            if self.is_over():
                print("the sweep is over before all faults were made")
                break
            before, running = self.settled(), self.running()
            possible = self.faults()
            fewest = min(history.count(kind) for kind in possible)  # every kind comes, in random order
            kind = random.choice([k for k in possible if history.count(k) <= fewest + 1])
            history.append(kind)
            fault = Fault(len(done) + 1, kind, time.monotonic() - began, len(running), len(before))
            print(f"{fault.at:6.0f} s  {fault.number:2d}  {kind}", flush=True)
            struck = time.monotonic()
            possible[kind]()
            if running:
                time.sleep(3)  # the status is written every two seconds: what the trials had reached by then
                running = {cell: max(epoch, self.running().get(cell, 0)) for cell, epoch in running.items()}
                self.wait(lambda running=running: self.further(running))  # type: ignore[misc]
                fault.recovery = time.monotonic() - struck
            now = self.records()
            fault.lost = sum(now.get(cell) != record for cell, record in before.items())
            done.append(fault)
            account(done)
        return done

    def is_over(self) -> bool:
        """Has the driver ended by itself? One that was refused by a full disk is started again."""
        assert self.driver is not None
        if self.driver.poll() is None:
            return False
        if self.driver.returncode == 0:
            return True
        self.unasked.append(self.driver.returncode)
        self.drive()
        return False

    def tracebacks(self) -> int:
        """How many the drivers have printed."""
        return (self.folder / "output").read_text(errors="replace").count("Traceback (most recent call last)")

    def further(self, before: dict[str, int]) -> bool:
        """Has every trial come further, or ended?"""
        self.is_over()
        now, records = self.running(), self.records()
        return all(
            now.get(cell, -1) > epoch or (cell in records and records[cell].status in {*SETTLED, Status.PRUNED})
            for cell, epoch in before.items()
        )

    @staticmethod
    def wait(what: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_TO_RECOVER
        while not what():
            if time.monotonic() > deadline:
                raise RuntimeError(f"not recovered within {SECONDS_TO_RECOVER:g} s")
            time.sleep(0.2)

    def finish(self) -> int:
        """Let it come to its end; returns how often the command had to be typed again for what had failed."""
        again = 0
        while len(self.nodes) < 2:
            self.add_node()
        while True:
            assert self.driver is not None
            if self.driver.wait(3600) == 0:
                return again
            again += 1
            if again > 5:
                raise RuntimeError("the sweep does not come to an end")
            self.drive()


def undisturbed(folder: Path, study: dict[str, Any]) -> dict[str, CellRecord]:
    """The same sweep on this machine, without faults."""
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    command = [
        sys.executable,
        "-m",
        "ltsearch.sweep",
        "study.yaml",
        "--local",
        "--tracking-uri",
        f"sqlite:///{folder}/m.db",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    store = CellStore(folder / "store")
    cells = [p.parent.name for p in folder.glob("store/cells/*/record.json")]
    return {cell: record for cell in cells if (record := store.read(cell)) is not None}


def compare(ours: dict[str, CellRecord], theirs: dict[str, CellRecord]) -> tuple[int, int, float]:
    """Finished cells of both, how many of them have another number of epochs, and the largest relative difference of a loss."""
    both = [c for c in ours if c in theirs and ours[c].status == theirs[c].status == "finished"]
    odd, worst = 0, 0.0
    for cell in both:
        mine, other = ours[cell].history, theirs[cell].history
        odd += [e.epoch for e in mine] != [e.epoch for e in other]
        for a, b in zip(mine, other, strict=False):
            x, y = a.metrics["train/loss"], b.metrics["train/loss"]
            worst = max(worst, abs(x - y) / max(abs(y), 1e-12))
    return len(both), odd, worst


def runs_once(soak: Soak) -> str:
    """Is every cell in MLflow once, with every epoch once and in order?"""
    from mlflow import MlflowClient

    client = MlflowClient(f"http://127.0.0.1:{soak.port}")
    runs = client.search_runs(["0", *(e.experiment_id for e in client.search_experiments())], max_results=5000)
    trials = [r for r in runs if r.data.tags.get("ltsearch.role") == "trial"]
    twice = len(trials) - len({r.data.tags["ltsearch.cell"] for r in trials})
    records, wrong = soak.records(), 0
    for run in trials:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
        wrong += steps != [e.epoch for e in records[run.data.tags["ltsearch.cell"]].history]
    return f"{len(trials)} runs, {twice} cells with more than one, {wrong} with epochs missing, twice or out of order"


def write(out: Path, name: str, done: list[Fault], ending: list[str]) -> None:
    """The account as Markdown."""
    head = ["fault", "kind", "after (s)", "trials running", "finished before", "of them lost", "recovered after (s)"]
    lines = [
        [
            str(f.number), f.kind, f"{f.at:.0f}", str(f.running), str(f.finished), str(f.lost),
            "–" if f.recovery is None else f"{f.recovery:.1f}",
        ]
        for f in done
    ]  # fmt: skip
    kinds = sorted({f.kind for f in done})
    summary = []
    for kind in kinds:
        times = sorted(f.recovery for f in done if f.kind == kind and f.recovery is not None)
        middle = f"{times[len(times) // 2]:.1f}" if times else "–"
        worst = f"{times[-1]:.1f}" if times else "–"
        summary.append([kind, str(sum(f.kind == kind for f in done)), middle, worst])
    made = collect()
    versions = f"commit {made['commit']}, {made['cpu']}, Ray {made['ray']}, torch {made['torch']}"
    text = [
        f"# {len(done)} faults over a sweep: {name}",
        f"`python -m benchmarks.soak {name} OUT`; {versions}.",
        (__doc__ or "").split("\n\n", 1)[1].strip(),
        "\n".join(table(["kind", "faults", "recovered after (s), median", "longest"], summary)),
        *ending,
        "\n".join(table(head, lines, left=2)),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _codes(exits: list[int]) -> str:
    """``none``, or how many with which exit code."""
    return ", ".join(f"{exits.count(code)} with exit code {code}" for code in sorted(set(exits))) or "none"


def main() -> int:
    """Run it."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("study", choices=list(STUDIES))
    p.add_argument("out", type=Path)
    p.add_argument("--faults", type=int, default=30)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    random.seed(args.seed)
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and so would the driver
    os.environ["RAY_AUTH_MODE"] = "disabled"  # a cluster of this process's own
    folder = Path(tempfile.mkdtemp(prefix="lts-"))
    os.environ["RAY_TMPDIR"] = str(folder / "r")
    (folder / "r" / "ray").mkdir(parents=True)
    study = STUDIES[args.study]
    args.out.mkdir(parents=True, exist_ok=True)
    soak = None
    try:
        soak = Soak(folder, study)
        done = soak.soak(args.faults, lambda so_far: write(args.out, args.study, so_far, ["Not over yet."]))
        again = soak.finish()
        calm = folder / "calm"
        calm.mkdir()
        both, odd, worst = compare(soak.records(), undisturbed(calm, study))
        lost = sum(f.lost for f in done)
        ending = [
            f"In all {lost} finished cells were lost or changed. Drivers that ended by themselves in between: "
            f"{_codes(soak.unasked)}; tracebacks that they printed: {soak.tracebacks()}. The command was typed again {again} "
            "times in the end, for trials that had failed more often than `max_failures`. Against a sweep that nothing "
            f"disturbed: {both} cells finished in both, {odd} of them with other epochs, largest relative difference of any "
            f"epoch's loss {worst:.1e}. MLflow: {runs_once(soak)}."
        ]
        write(args.out, args.study, done, ending)
        print(ending[0])
        return int(lost > 0 or odd > 0 or soak.tracebacks() > 0)
    finally:
        if soak is not None:
            shutil.copy(folder / "output", args.out / f"{args.study}.log")
            soak.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
