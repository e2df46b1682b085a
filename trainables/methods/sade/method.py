"""SADE's three skill-diverse experts."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.sade.options import SADEOptions
from trainables.methods.single_loss import SingleLoss


class SADE(SingleLoss[SADEOptions]):
    """``CE(z_1) + CE(z_2 + log π) + CE(z_3 + log π - λ log π̄)``, π̄ the priors in reversed rank (eq. 2-4).

    Classes with as many images rank in label order.
    """

    shifts: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep the shift of each expert, ``[3, 1, 1, C]``."""
        super().__init__(config, class_counts)
        log_prior = torch.log_softmax(class_counts.double().log(), 0)
        order = torch.argsort(class_counts, stable=True)
        reversed_prior = torch.empty_like(log_prior)
        reversed_prior[order] = log_prior[order.flip(0)]
        shifts = torch.stack([0 * log_prior, log_prior, log_prior - self.options.inverse * reversed_prior])
        self.register_buffer("shifts", shifts[:, None, None].to(self.dtype), persistent=False)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[3, T, B]``."""
        return single.cross_entropy(z + self.shifts, labels)
