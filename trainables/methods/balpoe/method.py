"""Balanced product of experts."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import single
from trainables.methods.balpoe.options import BalPoEOptions
from trainables.methods.base import Batch
from trainables.methods.single_loss import SingleLoss


class BalPoE(SingleLoss[BalPoEOptions]):
    """``1/K Σ_k CE(z_k + τ_k log π)`` (eq. 9, 10)."""

    tau: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep τ, ``[K, 1, 1, 1]``."""
        super().__init__(config, class_counts)
        tau = torch.tensor(self.options.tau, dtype=self.dtype)[:, None, None, None]
        self.register_buffer("tau", tau, persistent=False)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``; the sum over experts becomes their mean."""
        return single.cross_entropy(z + self.tau * self.log_n, labels) / len(z)
