"""A network: a trunk that all branches share, K branches, and a head on each. NCL++ shares nothing: K whole experts."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from trainables import catalogue, draws
from trainables.config import ModelConfig
from trainables.models import BACKBONES, heads, pretrained
from trainables.models.backbone import Backbone


class Outputs(NamedTuple):
    """What a network makes of ``N`` images. ``K`` branches, ``C`` classes, ``D`` features."""

    logits: Tensor  # [K, N, C]
    features: Tensor  # [K, N, D]


class Expert(nn.Module):
    """One branch and its head."""

    branch: nn.Sequential
    classifier: nn.Module

    def __init__(self, branch: nn.Sequential, classifier: nn.Module) -> None:
        """Put the two together."""
        super().__init__()
        self.branch = branch
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, C]`` and features ``[N, D]`` of what the trunk gives."""
        features = self.branch(x)
        return self.classifier(features), features


class Network(nn.Module):
    """K experts that see the same images, through a trunk that they share (which may be empty)."""

    def __init__(self, trunk: nn.Module, experts: list[Expert], features: int) -> None:
        """Keep the experts in order; expert 0 is the one whose hard sets are shared where that is asked."""
        super().__init__()
        self.trunk = trunk
        self.experts = nn.ModuleList(experts)
        self.features = features  # D

    @property
    def branches(self) -> list[Expert]:
        """The experts, as what they are."""
        return cast(list[Expert], list(self.experts))

    def forward(self, images: Tensor) -> Outputs:
        """Images ``[N, 3, H, W]`` to logits and features of every expert."""
        x = self.trunk(images)
        both = [expert(x) for expert in self.branches]
        return Outputs(torch.stack([logits for logits, _ in both]), torch.stack([features for _, features in both]))

    def train(self, mode: bool = True) -> Network:
        """As ``nn.Module.train``, but what ``freeze`` froze keeps its BatchNorm statistics."""
        super().train(mode)
        for module in self.modules():
            if getattr(module, "keeps_statistics", False):
                module.training = False
        return self


def freeze(module: nn.Module, *, statistics: bool = True) -> None:
    """No gradient for a part; with ``statistics``, its BatchNorm normalises by, and keeps, the statistics that it has."""
    module.requires_grad_(False)
    for part in module.modules():
        part.keeps_statistics = statistics  # type: ignore[assignment]


def build(config: ModelConfig, classes: int, seed: int) -> Network:
    """The network of a trial: expert k's initialisation depends on (seed, k) only, so K = 3 starts as K = 2 plus one.

    A shared trunk is that of expert 0. Raises ``ValueError`` if the backbone has no such stage.
    """
    entry = BACKBONES[config.backbone]
    own = config.pretrained if isinstance(config.pretrained, str) else None
    weights = pretrained.fetch(config.backbone, own) if config.pretrained else None
    trunk: nn.Module = nn.Identity()
    experts = []
    features = 0
    for k in range(config.experts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.integer(seed, draws.STREAMS["init"], k))
            backbone: Backbone = catalogue.load(entry.build)(config.stem, config.branch_width, weights)
            features = backbone.features
            classifier = heads.make(config.classifier, features, classes, config.cosine_scale)
        leading = backbone.leading(config.shared)
        if k == 0 and leading:
            trunk = backbone.parts[:leading]
        experts.append(Expert(backbone.parts[leading:], classifier))
    return Network(trunk, experts, features)
