"""Learnable weight scaling."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.lws.options import LWSOptions
from trainables.methods.single_loss import SingleLoss
from trainables.models.heads import ScaledClassifier
from trainables.models.network import Network, freeze


class LWS(SingleLoss[LWSOptions]):
    """Cross-entropy of ``s_j (w_j·f + b_j)``; only s is trained."""

    def prepare(self, network: Network) -> None:
        """Freeze all, and put a scale on every expert's head."""
        freeze(network, statistics=self.options.frozen_statistics)
        for expert in network.branches:
            expert.classifier = ScaledClassifier(expert.classifier, len(self.class_counts))

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z, labels)
