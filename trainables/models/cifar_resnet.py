"""The CIFAR ResNets of He et al. (CVPR 2016, section 4.2): 6n + 2 layers, option-A shortcuts, Kaiming-normal init."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.backbone import Backbone


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


class CifarResNet(Backbone):
    """``depth`` = 6n + 2 layers over stages of 16, 32 and 64 channels."""

    features = 64

    def __init__(self, depth: int) -> None:
        """Raises ``ValueError`` if the depth is not 6n + 2."""
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth = {depth} must be 6n + 2")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        self.stages = nn.Sequential(
            *(
                _Block(
                    widths[stage] if block == 0 else widths[stage + 1],
                    widths[stage + 1],
                    2 if stage and not block else 1,
                )
                for stage in range(3)
                for block in range(blocks)
            )
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[N, 64]``."""
        x = self.stages(F.relu(self.bn1(self.conv1(images)), inplace=True))
        return x.mean((2, 3))
