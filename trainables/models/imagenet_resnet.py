"""ResNet-10/18/50/152 and ResNeXt-50 from torchvision, without their classifier.

``stem: imagenet`` is torchvision's 7×7 convolution of stride 2 with max pooling; ``cifar`` a 3×3 convolution of stride 1
without pooling (Table 8). ResNet-10 has basic blocks [1, 1, 1, 1], which torchvision does not name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, ResNet

from trainables.models.backbone import Backbone, Stem


def _parts(net: ResNet, stem: str, weights: dict[str, Any] | None) -> Backbone:
    """Take ``net`` apart, dropping its classifier; change its stem if asked."""
    features = net.fc.in_features
    if weights is not None:
        own = {key: value for key, value in net.state_dict().items() if key.startswith("fc.")}
        net.load_state_dict({**own, **{key: value for key, value in weights.items() if not key.startswith("fc.")}})
    first: list[nn.Module] = [net.conv1, net.bn1, nn.ReLU(inplace=True), net.maxpool]
    if stem == "cifar":
        convolution = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        first = [convolution, net.bn1, nn.ReLU(inplace=True)]
    stages = [list(stage.children()) for stage in (net.layer1, net.layer2, net.layer3, net.layer4)]
    pool = nn.Sequential(net.avgpool, nn.Flatten())
    return Backbone([Stem(*first), *(b for s in stages for b in s), pool], [len(s) for s in stages], features)


NETWORKS: dict[str, Callable[[], ResNet]] = {
    "resnet10": lambda: ResNet(BasicBlock, [1, 1, 1, 1]),
    "resnet18": lambda: resnet.resnet18(weights=None),
    "resnet50": lambda: resnet.resnet50(weights=None),
    "resnet152": lambda: resnet.resnet152(weights=None),
    "resnext50": lambda: resnet.resnext50_32x4d(weights=None),
}


def state(name: str) -> dict[str, Tensor]:
    """What weights of a backbone are called and what shapes they have, without storage."""
    with torch.device("meta"):
        made: dict[str, Tensor] = NETWORKS[name]().state_dict()
    return made


def _builder(name: str) -> Callable[[str | None, float, dict[str, Any] | None], Backbone]:
    def build(stem: str | None, width: float, weights: dict[str, Any] | None) -> Backbone:
        return _parts(NETWORKS[name](), stem or "imagenet", weights)

    return build


resnet10 = _builder("resnet10")
resnet18 = _builder("resnet18")
resnet50 = _builder("resnet50")
resnet152 = _builder("resnet152")
resnext50 = _builder("resnext50")
