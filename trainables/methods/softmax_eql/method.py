"""Softmax equalization loss."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables import draws
from trainables.config import TrialConfig
from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.single_loss import SingleLoss
from trainables.methods.softmax_eql.options import SoftmaxEQLOptions


class SoftmaxEQL(SingleLoss[SoftmaxEQLOptions]):
    """``-log(e^{z_y} / Σ_k w_k e^{z_k})``, ``w_k = 1 - b_k·[n_k/N < λ]·(1 - y_k)``.

    ``b`` ~ Bernoulli(γ) of every sample and class; the slides leave open what it is drawn for.
    """

    rare: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep which classes are rare, bool ``[C]``."""
        super().__init__(config, class_counts)
        share = class_counts.double() / class_counts.sum()
        self.register_buffer("rare", share < self.options.threshold, persistent=False)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        k, t, _, c = z.shape
        rows = torch.arange(k * t, device=z.device).view(k, t, 1)
        key = (batch.seed, draws.STREAMS["hard_random"], batch.epoch, batch.image, batch.occurrence, rows)
        ignored = self.rare & (draws.uniforms(key, c, device=z.device) < self.options.gamma)
        return single.softmax_equalization(z, labels, ignored)
