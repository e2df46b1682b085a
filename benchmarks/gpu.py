"""A whole step on a CUDA device: images per second, how near to the memory's bandwidth, launches, and waits of the host."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import workload
from benchmarks.measure import Row, Spread, interleaved, rates
from trainables import precision
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.data.source import Part, Source, make_source
from trainables.run_options import RunOptions
from trainables.training import _Trial

TITLE = "Step on a GPU"
PRECISIONS = ("fp32", "tf32", "bf16")
STEPS = 10  # that one measurement takes
PASSES_OVER_MEMORY = 3  # of what goes in and out of a layer: forwards, and backwards with what it kept


def run(quick: bool, device: torch.device | None = None) -> list[Row]:
    if device is None and not torch.cuda.is_available():
        return [Row("no CUDA device", note="skipped")]
    device = device or torch.device("cuda")
    source = _noise()
    trials = {name: Trainer(name, source, device) for name in PRECISIONS}
    seconds = interleaved(
        {name: partial(trial.steps, STEPS) for name, trial in trials.items()}, 2 if quick else 10, warm_up=2
    )
    bandwidth = _bandwidth(device, 2 if quick else 20)
    rows = [Row("bandwidth of the memory, by copies of 1 GiB", "GB/s", ours=_of(bandwidth / 1e9))]
    for name, trial in trials.items():
        floor = trial.bytes_of_a_step() / bandwidth
        took = sorted(seconds[name])[len(seconds[name]) // 2] / STEPS
        launches, waits = trial.launches(), trial.waits()
        rows += [
            Row(f"step, {name}", "image passes/s", ours=rates(workload.PASSES * STEPS, seconds[name])),
            Row(f"step, {name}", "ms", ours=_of(1000 * took), note=f"{floor / took:.0%} of the bandwidth floor"),
            Row(f"kernels launched in a step, {name}", ours=_of(launches)),
            Row(f"waits of the host in a step, {name}", ours=_of(waits), target="0", met=waits == 0),
        ]
    return rows


class Trainer:
    """The trial of ``workload`` as the epoch loop takes it: augmentation, forward pass, loss, backward pass, optimiser."""

    def __init__(self, name: str, source: Source, device: torch.device) -> None:
        config: TrialConfig = workload.config(name)
        self.device = device
        self.trial = _Trial(config, split(config.data, source), RunOptions(device=device))
        self.trial.network.train()
        self.trial.method.train()
        self.queue = iter(())

    def steps(self, number: int) -> None:
        """Take so many, and wait for the device."""
        precision.apply(self.trial.config)  # it holds for the process, in which there are others
        for _ in range(number):
            if (found := next(self.queue, None)) is None:
                self.queue = self.trial.feed.batches(self.trial.feed.steps(0), 0)
                found = next(self.queue)
            self.trial._forward_backward(*found)
            self.trial._optimizer_step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def bytes_of_a_step(self) -> float:
        """What goes in and out of every layer, ``PASSES_OVER_MEMORY`` times: no network without fused layers moves less."""
        moved = 0

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal moved
            for tensor in (*inputs, output):
                moved += tensor.numel() * tensor.element_size()

        leaves = [m for m in self.trial.network.modules() if not any(True for _ in m.children())]
        hooks = [leaf.register_forward_hook(count) for leaf in leaves]
        self.steps(1)
        for hook in hooks:
            hook.remove()
        return PASSES_OVER_MEMORY * float(moved)

    def launches(self) -> float:
        """Kernels that the host launches in one step."""
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        with profile(activities=kinds) as seen:
            self.steps(STEPS)
        launched = sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)
        if not launched and self.device.type == "cuda":
            raise RuntimeError("the profiler sees no kernels: CUPTI is absent, or this user may not count")
        return launched / STEPS

    def waits(self) -> float:
        """How often the host waits for the device in one step, batches included, by torch's own count."""
        if self.device.type != "cuda":
            return 0.0
        self.queue = self.trial.feed.batches(self.trial.feed.steps(0), 0)
        self.steps(1)  # of an epoch that has begun
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(STEPS):
                    self.trial._forward_backward(*next(self.queue))
                    self.trial._optimizer_step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("called a synchronizing" in str(warning.message) for warning in told) / STEPS


def _noise() -> Source:
    """Images as CIFAR-100's: what is measured does not depend on what they show."""
    random = np.random.default_rng(0)

    def part(each: int) -> Part:
        shape = (each * workload.CLASSES, 3, workload.SIZE, workload.SIZE)
        return Part(random.integers(0, 256, shape, dtype=np.uint8), np.arange(shape[0]) % workload.CLASSES)

    return make_source("noise", tuple(map(str, range(workload.CLASSES))), part(500), part(1))


def _bandwidth(device: torch.device, rounds: int) -> float:
    """Bytes per second, read and written."""
    size = 2**30 if device.type == "cuda" else 2**24
    there = torch.empty(size, dtype=torch.uint8, device=device)
    copied = torch.empty_like(there)

    def copy() -> None:
        copied.copy_(there)
        if device.type == "cuda":
            torch.cuda.synchronize()

    call: Callable[[], None] = copy
    return 2 * size / min(interleaved({"copy": call}, rounds, warm_up=3)["copy"])


def _of(value: float) -> Spread:
    return Spread(value, value, value)
