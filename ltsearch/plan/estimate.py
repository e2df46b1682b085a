"""How long a cell takes, before it has run: the work of its training over a machine's rate."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ltsearch.study.spec import Resources
from trainables.config import TrialConfig
from trainables.models import BACKBONES

# Images a class and native size of the sets that need no look at the disk.
_KNOWN = {"digits": (10, 124, 8), "cifar10": (10, 5000, 32), "cifar100": (100, 500, 32)}
# Images of the naturally long-tailed ones, as published.
_NATURAL = {"imagenet_lt": 115_846, "places_lt": 62_500, "inaturalist2018": 437_513}
# Multiply-adds of forward passes a second while training, of small networks; measured on one AVX-512 core. GPU: a guess.
CPU_RATE, GPU_RATE = 1.2e10, 1.0e12
# What launching the operations of one step costs, whatever its size, in the same unit: 4 ms an expert and 4 ms for the rest.
STEP = 0.004 * CPU_RATE


PROCESS = 0.9e9  # bytes: Python, torch and Ray's worker, as the operating system counts them


def default_rate(resources: Resources) -> float:
    """Multiply-adds a second of one trial on hardware nothing is known about."""
    one = GPU_RATE * resources.gpus_per_worker if resources.gpus_per_worker else CPU_RATE * resources.cpus_per_worker
    return one * resources.workers


def work(config: TrialConfig) -> float | None:
    """Work of a whole training run in forward multiply-adds; None where it is not known.

    That is so of other data sets, and of trainables of the user's own.
    """
    if config.custom is not None:
        return None
    if config.data.name in _NATURAL:
        images, size = float(_NATURAL[config.data.name]), 224
    elif config.data.name in _KNOWN:
        from trainables.data.longtail import profile_counts

        classes, per_class, size = _KNOWN[config.data.name]
        images = float(profile_counts(config.data.imbalance, np.full(classes, per_class)).sum())
    else:
        return None
    return config.loop.epochs * images * config.data.data_ratio / config.training.batch_size * step(config, size)


def step(config: TrialConfig, size: int | None = None) -> float:
    """Work of one batch, in the same unit; ``size``: of the stored images in pixels, where the configuration has none."""
    size = config.data.image_size or size or _KNOWN.get(config.data.name, (0, 0, 224))[2]
    one = macs(config.model.backbone, config.model.stem, size)
    experts, passes = config.model.experts, config.training.batch_size * config.augmentation.copies
    return passes * experts * one + (1 + experts) * STEP


def memory(config: TrialConfig, known: Sequence[tuple[TrialConfig, float]], on_gpu: bool) -> float:
    """Bytes that a trial holds at most, by what others held: of the one whose step is most like its own in size.

    What a step keeps for its backward pass grows with its work; on CPUs a process holds ``PROCESS`` before its first.
    """
    base, mine = 0.0 if on_gpu else PROCESS, step(config)
    other, peak = min(known, key=lambda one: abs(math.log(step(one[0]) / mine)))
    return base + max(peak - base, 0.0) * mine / step(other)


def macs(backbone: str, stem: str | None, size: int) -> float:
    """Multiply-adds of one image through one expert, to within a few percent."""
    at_224 = BACKBONES[backbone].macs_at_224
    if at_224 is None:
        return 69e6 * (int(backbone.removeprefix("resnet")) - 2) / 30 * (size / 32) ** 2
    scale = 4 if stem == "cifar" else 1  # the ImageNet stem reduces each side by four before the first stage
    return at_224 * (scale * size / 224) ** 2
