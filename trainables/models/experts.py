"""K independent experts of one shape, each a backbone and a classifier with its own initialisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import draws
from trainables.config import ModelConfig
from trainables.models.backbone import Backbone


class CosineClassifier(nn.Module):
    """``scale · cos(w_j, f)`` (Gidaris and Komodakis, CVPR 2018): features ``[N, D]`` to logits ``[N, C]``."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        """Rows of ``weight`` start uniform on the scale of a linear layer; only their direction matters."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]``."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class Expert(nn.Module):
    """One network: features ``[N, D]`` and logits ``[N, C]``."""

    def __init__(self, backbone: Backbone, classifier: nn.Module) -> None:
        """Put the two together."""
        super().__init__()
        self.backbone = backbone
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, C]`` and features ``[N, D]``."""
        features = self.backbone(images)
        return self.classifier(features), features


class Experts(nn.Module):
    """K experts that see the same images."""

    def __init__(self, experts: list[Expert]) -> None:
        """Keep the experts in order; expert 0 is the one whose hard sets are shared where that is asked."""
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``[N, 3, H, W]`` to logits ``[K, N, C]`` and features ``[K, N, D]``."""
        outputs = [expert(images) for expert in self.experts]
        return torch.stack([logits for logits, _ in outputs]), torch.stack([features for _, features in outputs])


def build(config: ModelConfig, classes: int, seed: int) -> Experts:
    """The experts of a trial: expert k's initialisation depends on (seed, k) only, so K = 3 starts as K = 2 plus one."""
    from trainables.models import BACKBONES, pretrained

    experts = []
    for k in range(config.experts):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draws.integer(seed, draws.STREAMS["init"], k))
            backbone = BACKBONES[config.backbone](config.stem)
            if config.pretrained:
                pretrained.load(backbone, config.backbone)
            classifier: nn.Module
            if config.classifier == "cosine":
                classifier = CosineClassifier(backbone.features, classes, config.cosine_scale)
            else:
                classifier = nn.Linear(backbone.features, classes)
            experts.append(Expert(backbone, classifier))
    return Experts(experts)
