"""The bilateral-branch network.

Legend: ``T`` copies, ``b`` images of each of the two samplings, ``C`` classes, ``D`` features of a branch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainables.losses import single
from trainables.methods.base import Batch, Method, Prediction, accuracy
from trainables.methods.bbn.options import BBNOptions
from trainables.models.network import Network, Outputs
from trainables.precision import autocast


class BBN(Method[BBNOptions]):
    """``z = W [α f_c; (1-α) f_r]``, ``L = α CE(z, y_c) + (1-α) CE(z, y_r)``, ``α = 1 - (e/E)²``, e from 0 (eq. 1-3)."""

    def prepare(self, network: Network) -> None:
        """One classifier over the features of both branches in place of one on each."""
        official = self.options.formulation == "official"
        self.head = nn.Linear(2 * network.features, len(self.class_counts), bias=official)
        self.factor = 2.0 if official else 1.0
        for expert in network.branches:
            expert.classifier = nn.Identity()

    def parameter_groups(self, network: Network) -> list[dict[str, Any]]:
        """The classifier decays as the network does."""
        parameters = [*network.parameters(), *self.parameters()]
        return [{"params": parameters, "weight_decay": self.config.loop.optimizer.weight_decay}]

    def alpha(self, epoch: int) -> float:
        """The conventional branch's weight in an epoch (from 0)."""
        return 1 - (epoch / self.epochs) ** 2

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """Each sampling goes through its own branch."""
        two = batch.inputs.unflatten(0, (-1, 2, len(batch.labels) // 2))  # [T, 2, b, 3, H, W]
        features = []
        with autocast(self.config, batch.inputs.device):
            for branch, expert in enumerate(network.branches):
                images = two[:, branch].flatten(0, 1).contiguous(memory_format=torch.channels_last)
                features.append(expert(network.trunk(images))[1])
        both = [f.to(batch.inputs.dtype).unflatten(0, (len(two), -1)) for f in features]  # [T, b, D] of each
        logits = self.mixed(both[0], both[1], self.alpha(batch.epoch))
        conventional, rebalancing = batch.labels.chunk(2)
        return self.both_losses(logits, conventional, rebalancing, batch.epoch)

    def mixed(self, conventional: Tensor, rebalancing: Tensor, alpha: float) -> Tensor:
        """Logits ``[..., C]`` of the branches' features ``[..., D]``."""
        scaled = [self.factor * alpha * conventional, self.factor * (1 - alpha) * rebalancing]
        logits: Tensor = self.head(torch.cat(scaled, -1))
        return logits

    def both_losses(self, logits: Tensor, conventional: Tensor, rebalancing: Tensor, epoch: int) -> dict[str, Tensor]:
        """Loss of logits ``[T, b, C]`` and the labels ``[b]`` of both branches' images."""
        alpha = self.alpha(epoch)
        first, second = (single.cross_entropy(logits, labels).mean() for labels in (conventional, rebalancing))
        right = alpha * accuracy(logits, conventional) + (1 - alpha) * accuracy(logits, rebalancing)
        return {"loss": alpha * first + (1 - alpha) * second, "top1": right}

    def predict(self, outputs: Outputs) -> Prediction:
        """Both branches alike, α = ½."""
        return Prediction(self.mixed(outputs.features[0], outputs.features[1], 0.5)[None])
