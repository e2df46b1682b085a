"""DisAlign: adaptive calibration and generalised re-weighting."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.losses import single, weights
from trainables.methods.base import Batch
from trainables.methods.disalign.options import DisAlignOptions
from trainables.methods.single_loss import SingleLoss
from trainables.models.network import Network, freeze


class CalibratedClassifier(nn.Module):
    """``σ(x)·(α⊙z + β) + (1 - σ(x))·z`` over a frozen classifier (eq. 5-7); α starts at 1, β at 0."""

    def __init__(self, classifier: nn.Module, features: int, classes: int) -> None:
        """``classifier`` is taken over and frozen."""
        super().__init__()
        self.classifier = classifier.requires_grad_(False)
        self.alpha = nn.Parameter(torch.ones(classes))
        self.beta = nn.Parameter(torch.zeros(classes))
        self.confidence = nn.Linear(features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Logits ``[N, C]`` of features ``[N, D]``."""
        z = self.classifier(features)
        sigma = torch.sigmoid(self.confidence(features))
        calibrated: Tensor = sigma * (self.alpha * z + self.beta) + (1 - sigma) * z
        return calibrated


class DisAlign(SingleLoss[DisAlignOptions]):
    """Cross-entropy of calibrated logits, weighted by ``(1/π_y)^ρ``, the weights scaled to sum C."""

    def prepare(self, network: Network) -> None:
        """Freeze all, and put a calibration on every expert's head."""
        freeze(network, statistics=self.options.frozen_statistics)
        for expert in network.branches:
            expert.classifier = CalibratedClassifier(expert.classifier, network.features, len(self.class_counts))

    def class_weights(self, n: Tensor) -> Tensor:
        """``[C]``."""
        return weights.inverse_frequency(n, self.options.rho)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return self.weights[labels] * single.cross_entropy(z, labels)
