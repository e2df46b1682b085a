"""The CIFAR ResNets of He et al. (CVPR 2016, section 4.2): 6n + 2 layers, option-A shortcuts, Kaiming-normal init."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.backbone import Backbone, Stem


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.grown = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        if self.stride != 1 or self.grown:
            # Option A: subsample, and pad the new channels with zeros, half on each side. No parameters.
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grown // 2, self.grown - self.grown // 2)
            )
        return F.relu(out + x, inplace=True)


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class CifarResNet(Backbone):
    """``depth`` = 6n + 2 layers over stages of 16, 32 and 64 channels; ``width`` scales the last two (RIDE takes 3/4)."""

    def __init__(self, depth: int, width: float = 1.0) -> None:
        """Raises ``ValueError`` if the depth is not 6n + 2."""
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth = {depth} must be 6n + 2")
        stem = Stem(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        widths = (16, 16, round(32 * width), round(64 * width))
        made = (
            _Block(
                widths[stage] if block == 0 else widths[stage + 1], widths[stage + 1], 2 if stage and not block else 1
            )
            for stage in range(3)
            for block in range(blocks)
        )
        super().__init__([stem, *made, _Pool()], [blocks] * 3, widths[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)


def _build(depth: int, stem: str | None, width: float, weights: dict[str, Any] | None) -> Backbone:
    return CifarResNet(depth, width)


resnet8, resnet14, resnet20 = partial(_build, 8), partial(_build, 14), partial(_build, 20)
resnet32, resnet44, resnet56 = partial(_build, 32), partial(_build, 44), partial(_build, 56)
