"""Weight balancing, stage 2."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import single, weights
from trainables.methods.base import Batch
from trainables.methods.single_loss import SingleLoss
from trainables.methods.weight_balancing.options import WeightBalancingOptions
from trainables.models.network import Network, freeze


class WeightBalancing(SingleLoss[WeightBalancingOptions]):
    """Class-balanced cross-entropy of the classifier; after each step, its rows are projected into a ball (MaxNorm)."""

    def prepare(self, network: Network) -> None:
        """Freeze all but the heads."""
        freeze(network, statistics=self.options.frozen_statistics)
        for expert in network.branches:
            expert.classifier.requires_grad_(True)

    def class_weights(self, n: Tensor) -> Tensor:
        """``[C]``."""
        return weights.effective_number(n, self.options.beta)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return self.weights[labels] * single.cross_entropy(z, labels)

    @torch.no_grad()
    def after_step(self, network: Network) -> None:
        """``w_j ← w_j · min(1, δ/‖w_j‖)``."""
        for expert in network.branches:
            weight = expert.classifier.get_parameter("weight")
            norm = weight.norm(dim=1, keepdim=True).clamp_min(1e-12)
            weight.mul_((self.options.max_norm / norm).clamp_max(1.0))
