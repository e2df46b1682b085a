"""``python -m benchmarks.soak {synthetic,training,two} OUT``: sweeps that are disturbed at random, and the account of it.

A cluster of up to three nodes on this machine, an MLflow server, a small disk for the storage (needs root), and the driver of
a sweep, or of two that share cells and the cluster. Each fault is one of: a trial's process killed, a worker process killed,
a node lost, a node added, a driver killed, a driver interrupted, the tracking server away, the disk full. A fault is over
when every trial that it found running has come further than it was. What was finished before must be there, unchanged; in the
end every curve is compared with that of sweeps that nothing disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.markdown import table
from benchmarks.soak_cluster import Driver, Soaked, wait
from benchmarks.soak_studies import STUDIES
from ltsearch.plan.layout import make_plan
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import collect
from ltsearch.store.records import SETTLED, CellRecord, Status
from ltsearch.study.spec import load


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


def soak(soaked: Soaked, faults: int, account: Callable[[list[Fault]], None]) -> list[Fault]:
    """So many faults; ``account`` is called after each."""
    began = time.monotonic()
    done: list[Fault] = []
    wait(lambda: not soaked.is_over() and any(epoch >= 1 for epoch in soaked.running().values()))
    history: list[str] = []
    while len(done) < faults:
        time.sleep(random.uniform(1, 6))
        if soaked.is_over():
            print("the sweep is over before all faults were made")
            break
        before, running = soaked.settled(), soaked.running()
        possible = soaked.faults()
        fewest = min(history.count(kind) for kind in possible)  # every kind comes, in random order
        kind = random.choice([k for k in possible if history.count(k) <= fewest + 1])
        history.append(kind)
        fault = Fault(len(done) + 1, kind, time.monotonic() - began, len(running), len(before))
        print(f"{fault.at:6.0f} s  {fault.number:2d}  {kind}", flush=True)
        struck = time.monotonic()
        possible[kind]()
        if running:
            time.sleep(3)  # the status is written every two seconds: what the trials had reached by then
            running = {cell: max(epoch, soaked.running().get(cell, 0)) for cell, epoch in running.items()}
            wait(lambda running=running: further(soaked, running))  # type: ignore[misc]
            fault.recovery = time.monotonic() - struck
        now = soaked.records()
        fault.lost = sum(now.get(cell) != record for cell, record in before.items())
        done.append(fault)
        account(done)
    return done


def further(soaked: Soaked, before: dict[str, int]) -> bool:
    """Has every trial come further, or ended?"""
    soaked.is_over()
    now, records = soaked.running(), soaked.records()
    return all(
        now.get(cell, -1) > epoch or (cell in records and records[cell].status in {*SETTLED, Status.PRUNED})
        for cell, epoch in before.items()
    )


def finish(soaked: Soaked) -> int:
    """Let all come to their end; returns how often a command had to be typed again for what had failed."""
    while len(soaked.nodes) < 2:
        soaked.add_node()
    return sum(driver.finish() for driver in soaked.drivers)


def undisturbed(folder: Path, studies: Sequence[dict[str, Any]]) -> dict[str, CellRecord]:
    """The same sweeps on this machine, one after another, without faults."""
    store = CellStore(folder / "store")
    for study in studies:
        calm = Driver(folder, study, store, ["--local", "--tracking-uri", f"sqlite:///{folder}/m.db"])
        if calm.process.wait() != 0:
            raise RuntimeError(calm.said()[-2000:])
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


def runs_once(soaked: Soaked) -> str:
    """Is every cell in MLflow once, with every epoch once and in order?"""
    from mlflow import MlflowClient

    client = MlflowClient(soaked.server.uri)
    runs = client.search_runs(["0", *(e.experiment_id for e in client.search_experiments())], max_results=5000)
    trials = [r for r in runs if r.data.tags.get("ltsearch.role") == "trial"]
    twice = len(trials) - len({r.data.tags["ltsearch.cell"] for r in trials})
    records, wrong = soaked.records(), 0
    for run in trials:
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
        wrong += steps != [e.epoch for e in records[run.data.tags["ltsearch.cell"]].history]
    return f"{len(trials)} runs, {twice} cells with more than one, {wrong} with epochs missing, twice or out of order"


def shared(soaked: Soaked) -> str:
    """Of several sweeps: what became of the cells that they share."""
    if len(soaked.drivers) == 1:
        return ""
    planned = [{cell.id for cell in make_plan(load(one.folder / f"{one.name}.yaml")).cells} for one in soaked.drivers]
    begun = [set(re.findall(r"\] start .*\((\w{16})\)", one.said())) for one in soaked.drivers]
    both, handed_over = set.intersection(*planned), set.intersection(*begun)
    own = " and ".join(str(len(one & both - handed_over)) for one in begun)
    return (
        f" Of {len(both)} cells that both sweeps plan, {own} were trained by one alone, {len(both & handed_over)} begun by "
        f"both, one after the other; looks at which both were at work on one: {soaked.doubled}."
    )


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
    studies = STUDIES[args.study]
    args.out.mkdir(parents=True, exist_ok=True)
    soaked = None
    try:
        soaked = Soaked(folder, studies)
        done = soak(soaked, args.faults, lambda so_far: write(args.out, args.study, so_far, ["Not over yet."]))
        again = finish(soaked)
        calm = folder / "calm"
        calm.mkdir()
        both, odd, worst = compare(soaked.records(), undisturbed(calm, studies))
        lost = sum(f.lost for f in done)
        unasked = [code for driver in soaked.drivers for code in driver.unasked]
        tracebacks = sum(driver.said().count("Traceback (most recent call last)") for driver in soaked.drivers)
        ending = [
            f"In all {lost} finished cells were lost or changed. Drivers that ended by themselves in between: "
            f"{_codes(unasked)}; tracebacks that they printed: {tracebacks}. The command was typed again {again} "
            "times in the end, for trials that had failed more often than `max_failures`. Against what nothing "
            f"disturbed: {both} cells finished in both, {odd} of them with other epochs, largest relative difference of any "
            f"epoch's loss {worst:.1e}. MLflow: {runs_once(soaked)}.{shared(soaked)}"
        ]
        write(args.out, args.study, done, ending)
        print(ending[0])
        return int(lost > 0 or odd > 0 or tracebacks > 0)
    finally:
        if soaked is not None:
            for driver in soaked.drivers:
                shutil.copy(folder / f"{driver.name}.out", args.out / f"{args.study}-{driver.name}.log")
            soaked.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
