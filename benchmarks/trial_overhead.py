"""What a warm trial costs beside its training: synthetic trials, and trials of two workers, through the real command."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from benchmarks.measure import Row, Spread
from benchmarks.sweeps import Sweep, sweep

TITLE = "Trial overhead"
TARGET = 0.5
TARGET_OF_TWO = 2.0
EPOCHS, EPOCH_SECONDS = 3, 0.02


def run(quick: bool) -> list[Row]:
    trials = 4 if quick else 50
    rows = []
    for name, study in {"ablation": _ablation(trials), "search (TPE)": _search(trials)}.items():
        with sweep(study, "--max-concurrent", "1") as done:
            rows += _rows(name, done, trials, TARGET)
    trials = 4 if quick else 12
    with sweep(_two_workers(trials), "--max-concurrent", "1") as done:
        rows += _rows("two workers", done, trials, TARGET_OF_TWO)
    return rows


def _rows(name: str, done: Sweep, trials: int, target: float) -> list[Row]:
    finished = [record for record in done.records if record.status == "finished" and record.ended is not None]
    if len(finished) != trials:
        raise RuntimeError(f"{len(finished)} of {trials} trials finished")
    ends = [record.ended or 0.0 for record in finished]
    overheads = [
        (after - before) - record.final["total_seconds"]
        for (before, after), record in zip(pairwise(ends), finished[1:], strict=True)
    ]
    mean = sum(overheads) / len(overheads)  # (time from the first to the last end - Σ seconds of epochs) / (n - 1)
    return [
        Row(
            f"{name}: overhead per warm trial, {trials} trials",
            "s",
            ours=Spread(mean, min(overheads), max(overheads)),
            target=f"≤ {target:g}",
            met=mean <= target,
            note=f"mean; median {Spread.of(overheads).median:.3f} s",
        ),
        _value(f"{name}: from the command to the first trial", finished[0].started - done.began),
        _value(f"{name}: from the last trial's end to the prompt, report included", done.ended - ends[-1]),
    ]


def _value(what: str, seconds: float) -> Row:
    return Row(what, "s", ours=Spread(seconds, seconds, seconds))


def _study(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}},
            "method": {"name": "ncl_pp", "inter": False, "intra": False},
            "training": {"epochs": EPOCHS},
            "synthetic": {"epoch_seconds": EPOCH_SECONDS},
        },
    }


def _ablation(trials: int) -> dict[str, Any]:
    return {**_study("overhead_ablation"), "seeds": trials, "ablation": {"rows": [{"name": "only"}]}}


def _two_workers(trials: int) -> dict[str, Any]:
    """Real training: what a group of workers does between two trials is what is measured."""
    base = {
        "data": {"name": "digits", "imbalance": {"factor": 10}},
        "model": {"backbone": "resnet8"},
        "method": {"name": "bsce"},
        "training": {"epochs": 2},
    }
    resources = {"workers": 2, "cpus_per_worker": 1}
    rows = [{"name": "only"}]
    return {
        "name": "overhead_workers",
        "base": base,
        "seeds": trials,
        "ablation": {"rows": rows},
        "resources": resources,
    }


def _search(trials: int) -> dict[str, Any]:
    search = {
        "val_per_class": 5,
        "trials": trials,
        "metrics": [{"name": "val/single_top1"}],
        "early_stopping": None,
        "confirm": None,
        "space": {"method.beta": {"uniform": [0.0, 1.0]}},
    }
    return {**_study("overhead_search"), "search": search}
