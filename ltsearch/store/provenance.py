"""Where numbers come from: commit, versions, hardware. Strings by name; no secrets, no paths, no host names."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ltsearch

ROOT = Path(__file__).resolve().parents[2]  # the checkout
PACKAGES = ("ray", "torch", "torchvision", "optuna", "pyarrow", "mlflow", "numpy", "pydantic")
SENT_COMMIT = ".commit"  # in the root of a tree that `ltsearch.cluster.packing` packed


def collect() -> dict[str, str]:
    """What is known of this machine and this tree; ``session``, when this driver started, sets its times apart from others'."""
    found = {"session": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), "ltsearch": ltsearch.__version__}
    found |= {"commit": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | hardware()


def hardware() -> dict[str, str]:
    """Of this machine, which in a cluster is not every trial's."""
    gpus = gpu_names()
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": f"{_cpu()}, {usable_cpus()} usable",
        "gpu": ", ".join(gpus) if gpus else "none",
    }


def commit() -> str:
    """Of this tree: Git's, or what came with a tree that was sent to a cluster."""
    if (ROOT / SENT_COMMIT).exists():
        return (ROOT / SENT_COMMIT).read_text().strip()
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "ltsearch", "trainables", "analysis")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head[:12] + (" + uncommitted changes" if changed else "")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown CPU"


def usable_cpus() -> int:
    """CPUs that this process may use, which in a container, or a job of Slurm's, are fewer than the machine has."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = os.environ.get("SLURM_CPUS_ON_NODE", "") if "SLURM_JOB_ID" in os.environ else ""
    return min(here, int(granted)) if granted.isdigit() and int(granted) else here


def gpu_names() -> list[str]:
    """GPUs of this machine as the driver's tool lists them; empty without one. Needs no torch."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in listing.stdout.splitlines() if line.strip()] if listing.returncode == 0 else []
