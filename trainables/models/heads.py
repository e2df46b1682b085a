"""Classifiers: features ``[N, D]`` to logits ``[N, C]``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineClassifier(nn.Module):
    """``scale · cos(w_j, f)`` (Gidaris and Komodakis, CVPR 2018)."""

    def __init__(self, features: int, classes: int, scale: float) -> None:
        """Rows of ``weight`` start uniform on the scale of a linear layer; only their direction matters."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))
        nn.init.uniform_(self.weight, -(features**-0.5), features**-0.5)
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]``."""
        return self.scale * F.linear(F.normalize(features, dim=-1), F.normalize(self.weight, dim=-1))


class ScaledClassifier(nn.Module):
    """LWS (Kang et al., ICLR 2020): ``s_j · z_j`` over a classifier that is kept as it is; ``s`` starts at 1."""

    def __init__(self, classifier: nn.Module, classes: int) -> None:
        """``classifier`` is taken over and frozen."""
        super().__init__()
        self.classifier = classifier.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]``."""
        out: Tensor = self.classifier(features) * self.scale
        return out


def make(kind: str, features: int, classes: int, cosine_scale: float) -> nn.Module:
    """A classifier by ``model.classifier``."""
    return CosineClassifier(features, classes, cosine_scale) if kind == "cosine" else nn.Linear(features, classes)
