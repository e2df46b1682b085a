"""What a configuration costs, counted and not measured: parameters and multiply-adds per image (Table 5 of NCL++).

A multiply-add is half of what ``torch.utils.flop_counter`` counts. Nothing is computed: tensors are on the meta device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.config import ModelConfig
from trainables.models import network

COUNTED = 2  # images in a pass that is counted: BatchNorm wants more than one value a channel


@dataclass(frozen=True)
class Cost:
    """Per image. ``K`` experts, ``T`` copies."""

    parameters: int  # of one expert, which is what a single prediction needs
    test_gmacs: float  # forward pass of one expert, 10⁹ multiply-adds: "Test" in Table 5
    train_gmacs: float  # all experts: K × test, "Train" as Table 5 prints it, or less where they share a trunk
    step_gmacs: float  # what a training step really takes: forward and backward, K experts, T copies

    def metrics(self) -> dict[str, float]:
        """By the names that a trial logs them under."""
        return {
            "cost/parameters": float(self.parameters),
            "cost/test_gmacs": self.test_gmacs,
            "cost/train_gmacs": self.train_gmacs,
            "cost/step_gmacs": self.step_gmacs,
        }


@lru_cache(maxsize=64)
def count(config: ModelConfig, classes: int, size: int, copies: int) -> Cost:
    """Count for images of ``size`` × ``size`` pixels."""
    one = config.model_copy(update={"experts": 1, "pretrained": False})
    parameters, test, stem = _forward(one, classes, size)
    whole = config.experts * test  # nothing shared
    stems = config.experts * stem
    if config.shared != "none":
        _, whole, stems = _forward(config.model_copy(update={"pretrained": False}), classes, size)
    # The backward pass takes every product twice, for inputs and for weights, and the images need no gradient. Not counted by
    # the counter itself, which does not divide the gradients of grouped convolutions by their groups.
    return Cost(parameters, test, whole, copies * (3 * whole - stems))


def _forward(config: ModelConfig, classes: int, size: int) -> tuple[int, float, float]:
    """Parameters, 10⁹ multiply-adds of an image, and those of the first convolution alone."""
    with torch.device("meta"):
        model = network.build(config, classes, seed=0)
        images = torch.empty(COUNTED, 3, size, size)
    counter, first = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with counter:
        model(images)
    with first:
        next(m for m in model.modules() if isinstance(m, nn.Conv2d))(images)
    unit = 2 * COUNTED * 1e9
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / unit, first.get_total_flops() / unit
