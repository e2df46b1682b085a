"""Counted costs against the layers' arithmetic, added up by hooks on real tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.config import ModelConfig
from trainables.cost import count
from trainables.models import network


def by_hand(config: ModelConfig, classes: int, size: int) -> tuple[float, float]:
    """Multiply-adds of one image in a forward pass, and in the pass that gives all weights their gradients."""
    model = network.build(config, classes, seed=0)
    sums = {"forward": 0.0, "backward": 0.0}
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))

    def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1]
            products = output[0].numel() * module.in_channels // module.groups * kernel
        else:
            products = module.in_features * module.out_features
        sums["forward"] += products
        sums["backward"] += products if module is first else 2 * products

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(hook)
    model.eval()(torch.zeros(1, 3, size, size))
    return sums["forward"], sums["backward"]


@pytest.mark.parametrize(("backbone", "size"), [("resnet8", 16), ("resnet32", 32), ("resnet10", 64), ("resnext50", 64)])
def test_multiply_adds(backbone: str, size: int) -> None:
    forward, backward = by_hand(ModelConfig(backbone=backbone), 10, size)
    cost = count(ModelConfig(backbone=backbone, experts=3), 10, size, copies=4)
    assert cost.test_gmacs == pytest.approx(forward / 1e9, rel=1e-12)
    assert cost.train_gmacs == pytest.approx(3 * forward / 1e9, rel=1e-12)
    assert cost.step_gmacs == pytest.approx(12 * (forward + backward) / 1e9, rel=1e-12)


def test_table_5() -> None:
    """ResNet-50 at 224 pixels: 4.1 G multiply-adds, twice that in training with two experts (Table 5 prints 4.11, 8.24)."""
    cost = count(ModelConfig(backbone="resnet50", experts=2), 1000, 224, copies=2)
    assert cost.test_gmacs == pytest.approx(4.11, rel=0.01) and cost.train_gmacs == pytest.approx(8.24, rel=0.01)
    assert cost.parameters == 25_557_032  # torchvision's resnet50
