"""Weight balancing, stage 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import single, weights
from trainables.methods.base import Batch, Images
from trainables.methods.single_loss import SingleLoss
from trainables.methods.weight_balancing.options import WeightBalancingOptions
from trainables.models.network import Network, freeze


class WeightBalancing(SingleLoss[WeightBalancingOptions]):
    """Class-balanced cross-entropy of the classifier, whose rows are projected into a ball (MaxNorm)."""

    radius: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """The radius of every expert's ball is a part of what is kept."""
        super().__init__(config, class_counts)
        self.register_buffer("radius", torch.zeros(config.model.experts, dtype=self.dtype))
        self.heads: list[Tensor] = []

    def prepare(self, network: Network) -> None:
        """Freeze all but the heads."""
        freeze(network, statistics=self.options.frozen_statistics)
        self.heads = [expert.classifier.get_parameter("weight") for expert in network.branches]
        for expert in network.branches:
            expert.classifier.requires_grad_(True)

    def survey(self, network: Network, training: Callable[[], Iterator[Images]]) -> None:
        """``δ = min_j ‖w_j‖ + max_norm·(max_j ‖w_j‖ - min_j ‖w_j‖)`` of every expert's classifier of stage 1."""
        norms = torch.stack([head.detach().norm(dim=1) for head in self.heads])
        low, high = norms.amin(1), norms.amax(1)
        self.radius.copy_(low + self.options.max_norm * (high - low))

    def class_weights(self, n: Tensor) -> Tensor:
        """``[C]``."""
        return weights.effective_number(n, self.options.beta)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        loss = single.softmax_binary if self.options.loss == "binary" else single.cross_entropy
        return self.weights[labels] * loss(z, labels)

    def after_step(self, network: Network) -> None:
        """Back into the ball."""
        if self.options.project == "step":
            self.project()

    def end_epoch(self, epoch: int) -> None:
        """Back into the ball, at the latest now."""
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """``w_j ← w_j · min(1, δ/‖w_j‖)``."""
        for weight, radius in zip(self.heads, self.radius, strict=True):
            weight.mul_((radius / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0))
