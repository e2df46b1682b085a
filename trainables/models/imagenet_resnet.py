"""ResNet-10/18/50/152 and ResNeXt-50 from torchvision, without their classifier.

``stem: imagenet`` is torchvision's 7×7 convolution of stride 2 with max pooling; ``cifar`` a 3×3 convolution of stride 1
without pooling (Table 8). ResNet-10 has basic blocks [1, 1, 1, 1], which torchvision does not name.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, ResNet

from trainables.models.backbone import Backbone


class ImageNetResNet(Backbone):
    """A torchvision ResNet that ends at the pooled features."""

    def __init__(self, net: ResNet, stem: str) -> None:
        """Take ``net`` over, dropping its classifier; change its stem if asked."""
        super().__init__()
        self.features = net.fc.in_features
        net.fc = nn.Identity()  # type: ignore[assignment]
        if stem == "cifar":
            net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            net.maxpool = nn.Identity()  # type: ignore[assignment]
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        """Features ``[N, 512]`` or ``[N, 2048]``."""
        out: Tensor = self.net(images)
        return out


def resnet10(stem: str) -> Backbone:
    """ResNet-10: basic blocks [1, 1, 1, 1]."""
    return ImageNetResNet(ResNet(BasicBlock, [1, 1, 1, 1]), stem)


def resnet18(stem: str) -> Backbone:
    """torchvision's ResNet-18."""
    return ImageNetResNet(resnet.resnet18(weights=None), stem)


def resnet50(stem: str) -> Backbone:
    """torchvision's ResNet-50."""
    return ImageNetResNet(resnet.resnet50(weights=None), stem)


def resnet152(stem: str) -> Backbone:
    """torchvision's ResNet-152."""
    return ImageNetResNet(resnet.resnet152(weights=None), stem)


def resnext50(stem: str) -> Backbone:
    """torchvision's ResNeXt-50 (32×4d)."""
    return ImageNetResNet(resnet.resnext50_32x4d(weights=None), stem)
