"""How long a sweep takes and how much memory a trial, before they have run: `docs/scaling.md` has the model and checks it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

import numpy as np

from ltsearch.study.search import EarlyStopping
from ltsearch.study.spec import Resources
from trainables.config import TrialConfig
from trainables.models import BACKBONES

# Images a class, native size and test images of the sets that need no look at the disk.
_KNOWN = {"digits": (10, 124, 8, 500), "cifar10": (10, 5000, 32, 10_000), "cifar100": (100, 500, 32, 10_000)}
# Training and test images of the naturally long-tailed ones, as published.
_NATURAL = {"imagenet_lt": (115_846, 50_000), "places_lt": (62_500, 36_500), "inaturalist2018": (437_513, 24_426)}
# Multiply-adds of forward passes a second while training, of small networks; measured on one AVX-512 core. GPU: a guess.
CPU_RATE, GPU_RATE = 1.2e10, 1.0e12
# Seconds that launching one step's operations takes, whatever its size: for each expert, and for the rest. GPU: a guess.
CPU_LAUNCH, GPU_LAUNCH = 0.004, 0.008
TEST = 1 / 3  # of a training pass: no backward
# Seconds beside the training (`docs/benchmarks.md`, trial overhead): to the first trial, of every trial, and of the report.
START, TRIAL, END = 9.0, 0.03, 5.0
SMALLEST = 0.8e9  # bytes of a trial on CPUs whose step keeps next to nothing
KEPT = 0.05  # bytes that a step keeps until its backward pass, for every multiply-add forwards; fp32, small ResNets


def default_rate(resources: Resources) -> float:
    """Multiply-adds a second of one trial on hardware nothing is known about."""
    one = GPU_RATE * resources.gpus_per_worker if resources.gpus_per_worker else CPU_RATE * resources.cpus_per_worker
    return one * resources.workers


def work(config: TrialConfig, on_gpu: bool = False) -> float | None:
    """Work of a whole trial in forward multiply-adds, its one test included; None where it is not known.

    That is so of other data sets, and of trainables of the user's own.
    """
    if config.custom is not None:
        return None
    if config.data.name in _NATURAL:
        training, test = _NATURAL[config.data.name]
        images, size = float(training), 224
    elif config.data.name in _KNOWN:
        from trainables.data.longtail import profile_counts

        classes, per_class, size, test = _KNOWN[config.data.name]
        images = float(profile_counts(config.data.imbalance, np.full(classes, per_class)).sum())
    else:
        return None
    steps = config.loop.epochs * images * config.data.data_ratio / config.training.batch_size
    return steps * step(config, size, on_gpu) + TEST * test * config.model.experts * _one(config, size)


def step(config: TrialConfig, size: int | None = None, on_gpu: bool = False) -> float:
    """Work of one batch, in the same unit; ``size``: of the stored images in pixels, where the configuration has none."""
    launch = GPU_LAUNCH * GPU_RATE if on_gpu else CPU_LAUNCH * CPU_RATE
    return passes(config, size) + (1 + config.model.experts) * launch


def passes(config: TrialConfig, size: int | None = None) -> float:
    """Multiply-adds forwards of a batch's images, copies and experts; BBN takes two batches at a time."""
    images = config.training.batch_size * (1 + len(config.method.streams(config)))
    return images * config.augmentation.copies * config.model.experts * _one(config, size)


def _one(config: TrialConfig, size: int | None) -> float:
    """Of one image through one expert."""
    size = config.data.image_size or size or (_KNOWN[config.data.name][2] if config.data.name in _KNOWN else 224)
    return macs(config.model.backbone, config.model.stem, size)


def share(stop: EarlyStopping | None, epochs: int) -> float:
    """Of a search's epochs, those that are trained.

    ASHA, Hyperband: rung k at g·η^k epochs, one in η goes on from each (asynchronously more, at first), over Hyperband's
    brackets g·η^s. The other rules depend on the curves: half for the median, all for those that seldom stop.
    """
    match stop.rule if stop is not None else None:
        case "asha" | "hyperband":
            assert stop is not None
            brackets = _rungs(stop, epochs) if stop.rule == "hyperband" else [float(stop.grace_epochs)]
            shares = [_asha(grace, stop.reduction_factor, epochs) for grace in brackets]
            return sum(shares) / len(shares)
        case "median":
            return 0.5
        case _:
            return 1.0


def _rungs(stop: EarlyStopping, epochs: int) -> list[float]:
    rungs = [float(stop.grace_epochs)]
    while rungs[-1] * stop.reduction_factor < epochs:
        rungs.append(rungs[-1] * stop.reduction_factor)
    return rungs


def _asha(grace: float, factor: int, epochs: int) -> float:
    trained, left, rung = min(grace, epochs), 1.0, grace
    while rung < epochs:
        left /= factor
        after = min(rung * factor, epochs)
        trained += left * (after - rung)
        rung = after
    return trained / epochs


def makespan(seconds: Iterable[float], slots: int) -> float:
    """Until the last of so many trials ends, if each begins, in this order, when a slot falls free."""
    free = [0.0] * max(slots, 1)
    for one in seconds:
        heapq.heapreplace(free, free[0] + one + TRIAL)
    return max(free)


def memory(config: TrialConfig, known: Sequence[tuple[TrialConfig, float]]) -> float:
    """Bytes that a trial holds at most: what the one with the nearest step held, and what its own step keeps more or less.

    Of a smaller one at least in proportion: what of the other's was not its step's is not known.
    """
    mine = passes(config)
    other, peak = min(known, key=lambda one: abs(math.log(passes(one[0]) / mine)))
    more = mine - passes(other)
    return (
        peak + KEPT * more if more >= 0 else max(peak + KEPT * more, peak * mine / passes(other), min(peak, SMALLEST))
    )


def macs(backbone: str, stem: str | None, size: int) -> float:
    """Multiply-adds of one image through one expert, to within a few percent."""
    at_224 = BACKBONES[backbone].macs_at_224
    if at_224 is None:
        return 69e6 * (int(backbone.removeprefix("resnet")) - 2) / 30 * (size / 32) ** 2
    scale = 4 if stem == "cifar" else 1  # the ImageNet stem reduces each side by four before the first stage
    return at_224 * (scale * size / 224) ** 2
