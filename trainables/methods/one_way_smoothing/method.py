"""One-way label smoothing."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import TrialConfig
from trainables.methods.base import Batch
from trainables.methods.one_way_smoothing.options import OneWaySmoothingOptions
from trainables.methods.single_loss import SingleLoss


class OneWaySmoothing(SingleLoss[OneWaySmoothingOptions]):
    """Head labels become ``(1-ε, ε)``, tail labels stay.

    ``r = (n_t + ε n_h)/((1-ε) n_h)`` gives ``ε = (r n_h - n_t)/(n_h (1+r))``.
    """

    targets: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep the target distribution of either label, ``[2, 2]``."""
        super().__init__(config, class_counts)
        targets = torch.eye(2, dtype=torch.float64)
        if self.options.flatness is not None:
            head = int(class_counts.argmax())
            n_head, n_tail, r = float(class_counts.max()), float(class_counts.min()), self.options.flatness
            epsilon = (r * n_head - n_tail) / (n_head * (1 + r))
            targets[head, head], targets[head, 1 - head] = 1 - epsilon, epsilon
        self.register_buffer("targets", targets.to(self.dtype), persistent=False)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return -(self.targets[labels] * F.log_softmax(z, dim=-1)).sum(-1)
