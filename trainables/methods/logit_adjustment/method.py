"""Logit adjustment, in training."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.logit_adjustment.options import LogitAdjustmentOptions
from trainables.methods.single_loss import SingleLoss


class LogitAdjustment(SingleLoss[LogitAdjustmentOptions]):
    """``CE(z + τ log π)``; counts stand for priors, which shifts all logits alike."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z + self.options.tau * self.log_n, labels)
