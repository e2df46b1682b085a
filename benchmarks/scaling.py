"""How long a sweep takes: `--plan` against three real sweeps, once one cell has run; and what an epoch costs the driver."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Spread
from benchmarks.sweeps import Place, place
from ltsearch.plan import estimate
from ltsearch.plan.layout import make_plan
from ltsearch.store.records import PEAK_MEMORY, Status
from ltsearch.study.spec import load
from trainables.config import TrialConfig

TITLE = "Scaling"
TIME, MEMORY = 0.2, 0.25  # how far off a prediction may be
TABLE_7 = Path(__file__).resolve().parent.parent / "search_spaces" / "ncl_pp" / "table7_components.yaml"


def run(quick: bool) -> list[Row]:
    rows: list[Row] = []
    for name, (study, calibrate) in _studies(quick).items():
        with place(study) as there:
            there.type("--local", *calibrate)
            rows += _against(name, there)
    return [*rows, _report(quick)]


def _against(name: str, there: Place) -> Iterator[Row]:
    before = {record.cell for record in there.records()}
    plan = there.type("--local", "--plan")
    clock = re.search(r"at once: about (?:(\d+):)?(\d+):(\d\d) ", plan)
    memory = re.search(r"Memory: at most ([\d.]+) GiB", plan)
    assert clock is not None and memory is not None, plan
    hours, minutes, seconds = (int(part or 0) for part in clock.groups())
    told = 3600 * hours + 60 * minutes + seconds
    began = time.perf_counter()
    there.type("--local")
    took = time.perf_counter() - began
    new = [record for record in there.records() if record.cell not in before and record.status is Status.FINISHED]
    peak = max(record.final[PEAK_MEMORY] for record in new) / 2**30
    for what, unit, predicted, real, limit in (
        ("time", "s", told, took, TIME),
        ("memory of a trial", "GiB", float(memory[1]), peak, MEMORY),
    ):
        off = predicted / real - 1
        yield Row(
            f"{name}: {what}",
            unit,
            ours=Spread(real, real, real),
            target=f"predicted within {limit:.0%}",
            met=abs(off) <= limit,
            note=f"predicted {predicted:.3g}: {off:+.0%}",
        )


def _studies(quick: bool) -> dict[str, tuple[dict[str, Any], tuple[str, ...]]]:
    """By name, each with the words that run one cell of it first."""
    epochs, seeds = (2, 1) if quick else (16, 3)
    digits = {
        "data": {"name": "digits", "imbalance": {"factor": 10}},
        "model": {"backbone": "resnet8"},
        "method": {"name": "bsce"},
        "training": {"epochs": epochs, "batch_size": 64},
    }
    rows = [
        {"name": f"K = {experts}, T = {copies}", "set": {"model.experts": experts, "augmentation.copies": copies}}
        for experts in (1, 2, 3)
        for copies in (1, 2)
    ]
    one = ("--seeds", "1", "--set", "ablation.rows=[{name: only}]")
    found: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
        "ablation, digits, K and T": ({"name": "a", "base": digits, "seeds": seeds, "ablation": {"rows": rows}}, one),
        "search under ASHA, digits": (
            {
                "name": "b",
                "base": digits | {"training": {"epochs": 3 * epochs, "batch_size": 64}},
                "seeds": 2,
                "ablation": {"rows": [{"name": "only"}]},
                "search": {
                    "trials": 3 if quick else 27,
                    "val_per_class": 10,
                    "metrics": [{"name": "val/single_top1"}],
                    "sampler": "random",
                    "early_stopping": {"rule": "asha", "grace_epochs": 2, "reduction_factor": 3},
                    "space": {"optimizer.lr": {"loguniform": [0.001, 0.5]}},
                },
            },
            (*one, "--set", "search=null"),
        ),
    }
    if "LTSEARCH_DATA" in os.environ:
        images = {"name": "cifar10", "image_size": 16, "interpolation": "box", "data_ratio": 0.2}
        networks = [
            {"name": f"ResNet-{depth}, {batch} images", "set": _network(depth, batch)}
            for depth in (8, 14, 20)
            for batch in (64, 128)
        ]
        found["ablation, CIFAR-10-LT, networks and batches"] = (
            {"name": "c", "base": digits | {"data": images}, "seeds": 1, "ablation": {"rows": networks}},
            one,
        )
    return found


def _network(depth: int, batch: int) -> dict[str, Any]:
    return {"model.backbone": f"resnet{depth}", "training.batch_size": batch}


def _report(quick: bool) -> Row:
    """The driver's processor time for one epoch of a trial: two sweeps of trials that train nothing, few epochs and many."""
    few, many = (10, 60) if quick else (50, 1050)
    trials = 8
    spent = {epochs: _driver_seconds(epochs, trials) for epochs in (few, many)}
    each = (spent[many] - spent[few]) / ((many - few) * trials) * 1000
    return Row("driver: processor time for an epoch that a trial reports", "ms", ours=Spread(each, each, each))


def _driver_seconds(epochs: int, trials: int) -> float:
    study = {
        "name": "d",
        "base": {"data": {"name": "digits"}, "training": {"epochs": epochs}, "synthetic": {"epoch_seconds": 0.0}},
        "seeds": trials,
        "ablation": {"rows": [{"name": "only"}]},
        "resources": {"cpus_per_worker": 0.5},
    }
    with place(study) as there:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        there.type("--local")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# -- on paper ---------------------------------------------------------------------------------------------------------------


def packed(config: TrialConfig, pack: int) -> float:
    """Seconds of a trial on a GPU with ``pack`` of them: they share the device, and launch their operations at the same time.

    A step takes d on the device and h on the host alone (d + h, nothing overlaps), and max(n · d, d + h) beside n - 1 others.
    """
    alone = (estimate.work(config, on_gpu=True) or 0.0) / estimate.GPU_RATE
    step = estimate.step(config, on_gpu=True) / estimate.GPU_RATE
    host = (1 + config.model.experts) * estimate.GPU_LAUNCH
    return alone * max(pack * (step - host), step) / step


def table_7(gpus: int, pack: int, seeds: int) -> float:
    """Hours of Table 7 of the paper, controls included, at its own recipe."""
    cells = make_plan(load(TABLE_7, seeds=seeds)).cells
    seconds = sorted((packed(cell.config, pack) for cell in cells), reverse=True)
    return (estimate.START + estimate.makespan(seconds, gpus * pack) + estimate.END) / 3600
