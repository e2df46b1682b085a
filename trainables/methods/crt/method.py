"""Classifier re-training."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.crt.options import CRTOptions
from trainables.methods.single_loss import SingleLoss
from trainables.models import heads
from trainables.models.network import Network, freeze


class CRT(SingleLoss[CRTOptions]):
    """Cross-entropy of a classifier that starts anew; everything below it is frozen."""

    def prepare(self, network: Network) -> None:
        """Freeze all, and put a new head on every expert."""
        freeze(network, statistics=self.options.frozen_statistics)
        model = self.config.model
        for expert in network.branches:
            expert.classifier = heads.make(
                model.classifier, network.features, len(self.class_counts), model.cosine_scale
            )

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z, labels)
