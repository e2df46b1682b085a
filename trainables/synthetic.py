"""A trainable that trains nothing: sub-second trials for trying out a search, early stopping, resuming and failures.

It has the interface of ``training.train`` and keeps checkpoints as that does. Its accuracy is known in closed form, so that a
test can say what a search should find. Imports torch for checkpoints only, which takes longer than most of these trials.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Generator

from trainables.config import SyntheticConfig, TrialConfig
from trainables.data.longtail import TrialData
from trainables.files import write_text
from trainables.keeping import Keeping
from trainables.methods.ncl_pp.options import NCLppOptions
from trainables.reports import Report

_SCORES = ("single_class_mean", "ensemble_class_mean", "single_top1", "single_top1_max", "ensemble_top1")


def accuracy(config: TrialConfig, epoch: int) -> float:
    """``(0.9 - (β - 0.3)² - (λ2 - 0.6)²/2 + noise) · (1 - e^{-3·epoch/epochs})``, noise ~ U(-0.01, 0.01) by seed."""
    top = 0.9 + 0.02 * (random.Random(config.seed).random() - 0.5)
    if isinstance(config.method, NCLppOptions):
        top -= (config.method.beta - 0.3) ** 2 + (config.method.lambda_inter - 0.6) ** 2 / 2
    return top * (1 - math.exp(-3 * epoch / config.loop.epochs))


def train(config: TrialConfig, data: TrialData, run: Keeping) -> Generator[Report]:
    """One report an epoch, from the checkpoint on if there is one."""
    options = config.synthetic or SyntheticConfig()
    path = run.folder / "checkpoint.pt" if run.folder is not None else None
    state, notice = None, ""
    if run.folder is not None and path is not None and path.exists():
        from trainables import checkpoint

        state, notice = checkpoint.find(run.folder, config.training.epochs)
    elif path is not None and config.loop.epochs * options.epoch_seconds >= run.checkpoint_after():
        from trainables import checkpoint  # noqa: F401  # now, and not within an epoch, which may be watched
    return _epochs(config, data, run, state["epoch"] + 1 if state else 1, notice)


def _epochs(config: TrialConfig, data: TrialData, run: Keeping, first: int, notice: str) -> Generator[Report]:
    options = config.synthetic or SyntheticConfig()
    path = run.folder / "checkpoint.pt" if run.folder is not None else None
    saved = time.monotonic()
    for epoch in range(first, config.loop.epochs + 1):
        time.sleep(options.epoch_seconds)
        if epoch == options.fault_epoch and options.fault != "none":
            if options.fault == "diverge":
                yield Report(epoch, {}, done=True, diverged=True)
                return
            if options.fault == "out_of_memory":
                raise MemoryError("synthetic: out of memory")
            if _faults_so_far(run) < options.fault_times:
                if options.fault == "exit":
                    os._exit(1)
                if options.fault == "hang":
                    time.sleep(1e6)
                raise RuntimeError(f"synthetic fault in epoch {epoch}")
        value = accuracy(config, epoch)
        split = data.split
        metrics = {f"{split}/{name}": value for name in _SCORES}
        metrics |= {"train/loss": 1 - value, "train/top1": value, "seconds": options.epoch_seconds}
        done = epoch == config.loop.epochs
        yield Report(epoch, metrics, {f"{split}/ensemble": [value] * len(data.class_counts)}, done, notice=notice)
        notice = ""
        if not done and path is not None and time.monotonic() - saved >= run.checkpoint_after():
            from trainables import checkpoint

            if run.before_checkpoint is not None:
                run.before_checkpoint()
            checkpoint.save(path, {"epoch": epoch})
            saved = time.monotonic()


def _faults_so_far(run: Keeping) -> int:
    """Counted in a file, which outlives the process."""
    if run.folder is None:
        return 0
    path = run.folder / "faults"
    count = int(path.read_text()) if path.exists() else 0
    write_text(path, str(count + 1))
    return count
