"""Class-balanced losses."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.class_balanced.options import ClassBalancedOptions
from trainables.methods.single_loss import SingleLoss


class ClassBalanced(SingleLoss[ClassBalancedOptions]):
    """``(1 - β)/(1 - β^{n_y}) · loss``, weights scaled to sum C."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        gamma = self.options.gamma
        if self.options.loss == "softmax":
            return single.cross_entropy(z, labels)
        if self.options.loss == "focal":
            return single.focal(z, labels, gamma)
        return single.sigmoid(z, labels, gamma if self.options.loss == "sigmoid_focal" else 0.0)
