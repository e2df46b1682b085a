"""Colour jitter on batches of uint8 images, each with its own factors and its own order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import torch
from torch import Tensor

from trainables.augmentation.geometry import choose
from trainables.augmentation.operations import Table, apply, position
from trainables.augmentation.static import constant

OPERATIONS = ("Brightness", "Contrast", "Color")  # torchvision's brightness, contrast and saturation


@dataclass(frozen=True)
class ColorJitter:
    """``torchvision.transforms.ColorJitter(strength, strength, strength)``: hue stays.

    Brightness, contrast and saturation are multiplied by factors that are uniform on ``[1 - strength, 1 + strength]``, at least
    0, in an order that is drawn as well.
    """

    strength: float
    draws: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Check the strength; raises ``ValueError`` if it is negative."""
        if self.strength < 0:
            raise ValueError(f"the strength of colour jitter must not be negative, but is {self.strength}")

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Jitter uint8 ``[N, 3, H, W]``; ``u`` ``[N, 4]``: the order, and the factor of every operation."""
        device = images.device
        orders = constant(tuple(permutations(range(len(OPERATIONS)))), torch.int64, device)
        order = orders[choose(u[:, 0], len(orders))]  # [N, 3]
        low, high = max(0.0, 1 - self.strength), 1 + self.strength
        factors = low + u[:, 1:].double() * (high - low)  # [N, 3]
        kernels = constant(tuple(map(position, OPERATIONS)), torch.int64, device)
        each = torch.arange(len(images), device=device)
        for step in range(len(OPERATIONS)):
            ratio = factors.gather(1, order[:, step : step + 1]).view(-1, 1, 1, 1)
            images = apply(images, each, Table.enhancing(OPERATIONS, kernels[order[:, step]], ratio))
        return images
