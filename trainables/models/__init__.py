"""The catalogue of backbones: a name and how to build the feature extractor.

``build(config, classes, seed)`` makes the K experts of a trial.
"""

from __future__ import annotations

from collections.abc import Callable

from trainables.models import cifar_resnet, imagenet_resnet
from trainables.models.backbone import Backbone
from trainables.models.experts import Experts, build

# name -> build(stem); the CIFAR family has its own stem.
BACKBONES: dict[str, Callable[[str | None], Backbone]] = {
    "resnet8": lambda stem: cifar_resnet.CifarResNet(8),
    "resnet14": lambda stem: cifar_resnet.CifarResNet(14),
    "resnet20": lambda stem: cifar_resnet.CifarResNet(20),
    "resnet32": lambda stem: cifar_resnet.CifarResNet(32),
    "resnet44": lambda stem: cifar_resnet.CifarResNet(44),
    "resnet56": lambda stem: cifar_resnet.CifarResNet(56),
    "resnet10": lambda stem: imagenet_resnet.resnet10(stem or "imagenet"),
    "resnet18": lambda stem: imagenet_resnet.resnet18(stem or "imagenet"),
    "resnet50": lambda stem: imagenet_resnet.resnet50(stem or "imagenet"),
    "resnet152": lambda stem: imagenet_resnet.resnet152(stem or "imagenet"),
    "resnext50": lambda stem: imagenet_resnet.resnext50(stem or "imagenet"),
}

__all__ = ["BACKBONES", "Backbone", "Experts", "build"]
