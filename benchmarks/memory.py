"""Peak memory: of a trial actor in the ``tiny`` profile, and of a training step beside the literal one.

Resident set of the whole process at its peak (VmHWM), shared pages of libraries included.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import Row, Spread, usable_cpus
from benchmarks.sweeps import ROOT, sweep

TITLE = "Memory"
TARGET = 1.5  # GB
GB = 1e9
KINDS = ("literal", "fp32", "bf16")


def run(quick: bool) -> list[Row]:
    return [_actor(2 if quick else 6), *_steps(1 if quick else 3, repeats=1 if quick else 3)]


# -- a trial actor -------------------------------------------------------------------------------------------------------


def _actor(epochs: int) -> Row:
    what = "trial actor, tiny profile, NCL++"
    target = f"≤ {TARGET:g}"
    if not os.environ.get("LTSEARCH_DATA"):
        return Row(what, "GB", target=target, note="skipped: LTSEARCH_DATA names no folder with CIFAR-10")
    study: dict[str, Any] = yaml.safe_load((ROOT / "search_spaces" / "cifar10_lt.yaml").read_text(encoding="utf-8"))
    (row,) = [row for row in study["ablation"]["rows"] if row["name"] == "NCL++"]
    row.pop("published", None)  # six epochs answer to no published number
    study["ablation"] |= {"rows": [row], "reference": "NCL++"}
    words = ["--profile", "tiny", "--set", f"base.training.epochs={epochs}", "--set", "base.schedule.warmup_epochs=1"]
    data = Path(os.environ["LTSEARCH_DATA"]).absolute()
    with sweep(study, *words, "--seeds", "1", "--max-concurrent", "1", "--data-root", str(data)) as done:
        (record,) = done.records
        peaks = [epoch.metrics["peak_memory_bytes"] / GB for epoch in record.history]
    return Row(
        what,
        "GB",
        ours=Spread(max(peaks), min(peaks), max(peaks)),
        target=target,
        met=max(peaks) <= TARGET,
        note=f"greatest of {len(peaks)} epochs, the last with its evaluation",
    )


# -- a training step -----------------------------------------------------------------------------------------------------


def _steps(steps: int, repeats: int) -> list[Row]:
    peaks: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(repeats):
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.memory", kind, str(steps)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            peaks[kind].append(int(done.stdout.split()[-1]) / GB)
    return [
        Row(
            f"ResNet-32, K=2, T=4, B=64, {kind}; literal in fp32",
            "GB",
            ours=Spread.of(peaks[kind]),
            reference=Spread.of(peaks["literal"]),
            ratio=Spread.of([a / b for a, b in zip(peaks["literal"], peaks[kind], strict=True)]),
            note=f"fresh process, {steps} steps",
        )
        for kind in KINDS[1:]
    ]


def _measure_one(kind: str, steps: int) -> int:
    """Runs in a process of its own and returns its peak in bytes."""
    import torch

    from benchmarks import workload
    from benchmarks.literal import LiteralTrainer
    from benchmarks.workload import OurTrainer

    torch.set_num_threads(usable_cpus())
    images, labels = workload.random_batch()
    trainer: LiteralTrainer | OurTrainer
    if kind == "literal":
        trainer = LiteralTrainer(
            workload.EXPERTS, workload.class_counts(workload.config("fp32")), lr=workload.LEARNING_RATE
        )
    else:
        trainer = OurTrainer(kind)
    for _ in range(steps):
        trainer.step(images, labels)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory is measured on Linux only")


if __name__ == "__main__":
    print(_measure_one(sys.argv[1], int(sys.argv[2])))
