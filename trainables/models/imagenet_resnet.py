"""ResNet-10/18/50/152 and ResNeXt-50 from torchvision, without their classifier.

``stem: imagenet`` is torchvision's 7×7 convolution of stride 2 with max pooling; ``cifar`` a 3×3 convolution of stride 1
without pooling (Table 8). ResNet-10 has basic blocks [1, 1, 1, 1], which torchvision does not name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, ResNet

from trainables.models.backbone import Backbone, Stem


def _parts(net: ResNet, stem: str, weights: dict[str, Any] | None) -> Backbone:
    """Take ``net`` apart, dropping its classifier; change its stem if asked."""
    features = net.fc.in_features
    if weights is not None:
        net.load_state_dict(weights)
    first: list[nn.Module] = [net.conv1, net.bn1, nn.ReLU(inplace=True), net.maxpool]
    if stem == "cifar":
        convolution = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        first = [convolution, net.bn1, nn.ReLU(inplace=True)]
    stages = [list(stage.children()) for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]
    pool = nn.Sequential(net.avgpool, nn.Flatten())
    return Backbone([Stem(*first), *(b for s in stages for b in s), pool], [len(s) for s in stages], features)


def _builder(make: Callable[[], ResNet]) -> Callable[[str | None, float, dict[str, Any] | None], Backbone]:
    def build(stem: str | None, width: float, weights: dict[str, Any] | None) -> Backbone:
        return _parts(make(), stem or "imagenet", weights)

    return build


resnet10 = _builder(lambda: ResNet(BasicBlock, [1, 1, 1, 1]))
resnet18 = _builder(lambda: resnet.resnet18(weights=None))
resnet50 = _builder(lambda: resnet.resnet50(weights=None))
resnet152 = _builder(lambda: resnet.resnet152(weights=None))
resnext50 = _builder(lambda: resnet.resnext50_32x4d(weights=None))
