"""Backbones and the networks that are made of them.

``BACKBONES`` is the catalogue; it is torch-free, since configurations are checked against it.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One backbone."""

    build: str  # dotted path of (stem, weights) -> Backbone
    cifar: bool = False  # the CIFAR family: a 3×3 stem of its own, three stages
    weights: str | None = None  # torchvision's name, where it has ImageNet weights
    macs_at_224: float | None = None  # multiply-adds of an image of 224 px, for estimates


BACKBONES: dict[str, Entry] = {
    "resnet8": Entry("trainables.models.cifar_resnet.resnet8", cifar=True),
    "resnet14": Entry("trainables.models.cifar_resnet.resnet14", cifar=True),
    "resnet20": Entry("trainables.models.cifar_resnet.resnet20", cifar=True),
    "resnet32": Entry("trainables.models.cifar_resnet.resnet32", cifar=True),
    "resnet44": Entry("trainables.models.cifar_resnet.resnet44", cifar=True),
    "resnet56": Entry("trainables.models.cifar_resnet.resnet56", cifar=True),
    "resnet10": Entry("trainables.models.imagenet_resnet.resnet10", macs_at_224=0.9e9),
    "resnet18": Entry("trainables.models.imagenet_resnet.resnet18", weights="resnet18", macs_at_224=1.8e9),
    "resnet50": Entry("trainables.models.imagenet_resnet.resnet50", weights="resnet50", macs_at_224=4.1e9),
    "resnet152": Entry("trainables.models.imagenet_resnet.resnet152", weights="resnet152", macs_at_224=11.5e9),
    "resnext50": Entry("trainables.models.imagenet_resnet.resnext50", weights="resnext50_32x4d", macs_at_224=4.2e9),
}
