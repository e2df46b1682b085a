"""What the driver costs a trial as a sweep grows: its own work without Ray and without training, at 200 to 10,000 trials.

And how many values a second MLflow takes from its writer: what a sweep tells faster is written after its last trial.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Spread, peak_memory
from benchmarks.mlflow_server import MlflowServer

TITLE = "The driver as a sweep grows"
SIZES = {False: (200, 2000, 10_000), True: (20, 60)}
EPOCHS, METRICS, AT_ONCE, MANY = 100, 20, 8, 500
LOOP = 340  # epochs a second that Tune's loop can hear of: docs/scaling.md
ROOT = Path(__file__).resolve().parent.parent


def run(quick: bool) -> list[Row]:
    """Ablations by grid and searches by TPE, each size in a process and a store of its own; then the same command again."""
    rows: list[Row] = []
    sizes = SIZES[quick]
    for kind in ("ablation", "search"):
        found = {size: _measured(kind, size, "sweep", "restart", "plan") for size in sizes}
        rows += _of_sizes(kind, found)
    more = _measured("ablation", sizes[1], "sweep", at_once=MANY)["per_trial"]
    few = _measured("ablation", sizes[1], "sweep")["per_trial"]
    what = f"ablation: the same, {sizes[1]:,} trials, {MANY} at once instead of {AT_ONCE}"
    rows.append(
        Row(what, "ms", ours=_one(more * 1e3), target="≤ 1.3 ×", met=more <= 1.3 * few, note=f"{more / few:.2f} ×")
    )
    return rows + _mlflow(sizes[0])


def _of_sizes(kind: str, found: dict[int, dict[str, float]]) -> list[Row]:
    smallest, largest = min(found), max(found)
    own = {size: one["per_trial"] - one["proposals"] for size, one in found.items()}
    rows = []
    for size in found:
        ratio, at_end = own[size] / own[smallest], size == largest
        rows.append(
            Row(
                f"{kind}: driver's own time a trial of {EPOCHS} epochs, {size:,} trials",
                "ms",
                ours=_one(own[size] * 1e3),
                target=f"≤ 1.3 × of {smallest}" if at_end else "",
                met=ratio <= 1.3 if at_end else None,
                note=f"{ratio:.2f} × of {smallest}",
            )
        )
    if kind == "search":
        for size, one in found.items():
            rows.append(
                Row(f"search: TPE's own time a proposal, {size:,} trials", "ms", ours=_one(one["proposals"] * 1e3))
            )
    last = found[largest]
    memory = _least(f"{kind}: memory of the driver at its end, {largest:,} trials", "GB", last["memory"], 0.6)
    grown = last["memory"] - found[smallest]["memory"]
    note = f"{grown:.2f} GB more than at {smallest}; Ray, Tune and MLflow are loaded"
    rows.append(replace(memory, note=note))
    again = f"{kind}: the same command until its first trial, {largest:,} trials over, without MLflow"
    rows.append(_least(again, "s", last["restart"], 20))
    rows.append(_least(f"{kind}: --plan, {largest:,} trials over", "s", last["plan"], 3))
    return rows


def _mlflow(size: int) -> list[Row]:
    """Trials that are told as fast as they can be."""
    rows, values = [], size * EPOCHS * (METRICS + 1)  # the epoch is a metric, too
    with tempfile.TemporaryDirectory(prefix="ltb-") as folder:
        server = MlflowServer(Path(folder))
        server.start()
        try:
            for name, uri in (("a server on SQLite", server.uri), ("a SQLite file", f"sqlite:///{folder}/mlflow.db")):
                rate = values / _measured("ablation", size, "sweep", uri=uri)["wall"]
                most = LOOP * (METRICS + 1)
                target = f"≥ {most:,}: {LOOP} epochs, all that Tune's loop hears of in a second"
                rows.append(
                    Row(f"MLflow, {name}: values a second", "", ours=_one(rate), target=target, met=rate >= most)
                )
        finally:
            server.stop()
    return rows


def _one(value: float) -> Spread:
    return Spread(value, value, value)


def _least(what: str, unit: str, value: float, target: float) -> Row:
    return Row(what, unit, ours=_one(value), target=f"≤ {target:g}", met=value <= target)


def _measured(kind: str, size: int, *parts: str, at_once: int = AT_ONCE, uri: str = "") -> dict[str, float]:
    """In processes of their own: memory and caches of one size do not help another."""
    with tempfile.TemporaryDirectory(prefix="ltb-") as folder:
        found: dict[str, float] = {}
        for part in parts:
            words = [part, kind, str(size), folder, str(at_once), uri]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.driver_scale", *words],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                raise RuntimeError(done.stderr[-3000:])
            found |= json.loads(done.stdout.splitlines()[-1])
        return found


# -- in a process of its own ---------------------------------------------------------------------------------------------


def _study(kind: str, size: int) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "name": "scale",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}},
            "method": {"name": "ncl_pp", "inter": False, "intra": False},
            "training": {"epochs": EPOCHS},
            "synthetic": {"epoch_seconds": 0.0},
        },
        "seeds": 1,
    }
    if kind == "search":
        return tree | {
            "search": {
                "val_per_class": 5,
                "trials": size,
                "metrics": [{"name": "val/single_top1"}],
                "early_stopping": None,
                "space": {
                    "method.beta": {"uniform": [0, 1]},
                    "method.lambda_inter": {"uniform": [0, 1]},
                    "method.lambda_intra": {"uniform": [0, 1]},
                    "optimizer.lr": {"loguniform": [1e-3, 1]},
                },
            }
        }
    seeds = min(100, size)
    values = [round(number / (size // seeds), 6) for number in range(size // seeds)]
    return tree | {"seeds": seeds, "ablation": {"grid": {"axes": {"method.beta": values}}}}


def _part(part: str, kind: str, size: int, folder: Path, at_once: int, uri: str) -> dict[str, float]:
    import os
    import time

    import yaml

    os.chdir(folder)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    Path("study.yaml").write_text(yaml.safe_dump(_study(kind, size), sort_keys=False))
    began = time.perf_counter()
    if part == "plan":
        from ltsearch.sweep import main

        assert main(["study.yaml", "--local", "--plan"]) == 0
    elif part == "restart":
        _restart()
    else:
        return _sweep(at_once, uri)
    return {part: time.perf_counter() - began}


def _restart() -> None:
    """What a sweep does until it could start its first trial, without asking MLflow for its runs."""
    from ltsearch.plan.layout import make_plan
    from ltsearch.run import outstanding
    from ltsearch.store.cells import CellStore
    from ltsearch.study.spec import load

    plan, store, root = make_plan(load(Path("study.yaml"))), CellStore("store"), Path("data")
    work = outstanding.look(plan, store, root, fresh=False, retry=False, say=print)
    assert not work.configs
    outstanding.begin(plan, work, store, root, say=print)
    outstanding.count(plan, work.study, store)
    outstanding.recorded_cells(plan, work.study, store)


def _sweep(at_once: int, uri: str) -> dict[str, float]:
    """The queue, the search, progress and status as ``ltsearch.sweep`` has them, with trials that cost nothing."""
    import time

    import mlflow  # noqa: F401  # what a driver has loaded, for its memory
    import ray.tune  # noqa: F401

    from ltsearch.plan import sources
    from ltsearch.plan.layout import make_plan
    from ltsearch.plan.searched import search_data
    from ltsearch.run.jobs import Job, Listener, Outcome
    from ltsearch.run.queue import Queue
    from ltsearch.search.optuna_study import SearchStudy
    from ltsearch.show.progress import Progress
    from ltsearch.show.status import StatusFile
    from ltsearch.store.cells import CellStore
    from ltsearch.store.records import PLAN_ARTIFACT, Status
    from ltsearch.study.spec import load
    from ltsearch.sweep import plan_record, write_record
    from ltsearch.tracking import background
    from ltsearch.tracking.writer import Tracker

    plan = make_plan(load(Path("study.yaml")))
    store = CellStore("store")
    folder = store.sweep_folder(plan.loaded.sweep)
    some = [cell.config for cell in plan.cells[:1]] or search_data(plan)[:1]
    data = sources.read(some, Path("data"), lambda text: None)
    sources.remember(store, data, Path("data"))
    fingerprint = next(iter(data.values())).fingerprint
    study = SearchStudy(plan, folder, fingerprint) if plan.search_base is not None else None
    progress, status = Progress("scale", 0, 0, terminal=False), StatusFile(folder, "scale", 0, 0)
    progress.say = lambda text: None  # type: ignore[method-assign]  # a line an event is the terminal's cost
    listeners: list[Listener] = [progress, status]
    told: list[str] = []
    tracker = Tracker(uri, "scale", "scale", store, warn=told.append) if uri else None
    if tracker is not None:
        background.GIVE_UP_SECONDS = background.STUCK_SECONDS = 3600.0
        tracker.open(plan_record(plan, {}, store))
        listeners.append(tracker)
    status.nodes([])  # from here on a thread writes it
    queue = Queue(plan, store, study, listeners, lambda record: False)
    running: list[Job] = []
    driver = proposals = 0.0
    if study is not None:
        ask = study.ask

        def timed() -> Any:
            nonlocal proposals
            began = time.thread_time()
            asked = ask()
            proposals += time.thread_time() - began
            return asked

        study.ask = timed  # type: ignore[method-assign]
    opened = time.monotonic()
    while True:
        began = time.thread_time()
        while len(running) < at_once and (job := queue.next()) is not None:
            queue.started(job)
            running.append(job)
        driver += time.thread_time() - began
        if not running:
            break
        job = running.pop(0)
        record = _trained(queue, job, fingerprint)
        store.settle(record, Status.FINISHED)
        began = time.thread_time()
        for epoch in record.history:
            queue.epoch(job, epoch, {}, epoch.epoch == EPOCHS)
        queue.end(job, Outcome(Status.FINISHED))
        driver += time.thread_time() - began
    began = time.thread_time()
    store.keep_heads("scale", queue.ended)
    driver += time.thread_time() - began
    write_record(folder, PLAN_ARTIFACT, plan_record(plan, {}, store))
    if tracker is not None:
        tracker.close(Status.FINISHED, list(queue.ended), plan_record(plan, {}, store), None)
        assert not told and set(tracker.logged.values()) == {EPOCHS}, told  # all of it has arrived
    status.end()
    wall, trials = time.monotonic() - opened, len(queue.ended)
    return {"per_trial": driver / trials, "proposals": proposals / trials, "memory": peak_memory(), "wall": wall}


def _trained(queue: Any, job: Any, fingerprint: str) -> Any:
    from ltsearch.run.jobs import bare_record
    from ltsearch.store.records import Epoch

    config = job.cell.config
    split = "val" if config.data.val_per_class else "test"
    history = []
    for number in range(1, EPOCHS + 1):
        value = (0.9 - (config.method.beta - 0.3) ** 2) * (1 - math.exp(-3 * number / EPOCHS))
        metrics = {f"{split}/single_top1": value, f"{split}/single_class_mean": value, "seconds": 0.0}
        metrics |= {f"train/metric_{i}": value + i for i in range(METRICS - len(metrics))}
        history.append(Epoch(epoch=number, metrics=metrics))
    return bare_record(job).model_copy(update={"history": history, "fingerprint": fingerprint})


if __name__ == "__main__":
    name, which, trials, there, together, tracking = sys.argv[1:]
    print(json.dumps(_part(name, which, int(trials), Path(there), int(together), tracking)))
