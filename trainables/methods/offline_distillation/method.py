"""Offline distillation: ``BSCE + weight · τ² · KL(p̄ ‖ p)`` with ``p̄`` of the teachers' mean logits.

Legend: ``M`` teachers, ``K`` experts (students), ``T`` copies, ``B`` images, ``C`` classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses import collaborative, distillation
from trainables.methods.base import Batch, Method
from trainables.methods.offline_distillation.options import OfflineDistillationOptions
from trainables.methods.targets import targets_and_weight


class OfflineDistillation(Method[OfflineDistillationOptions]):
    """See ``OfflineDistillationOptions``."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """BSCE and the distillation term."""
        if batch.teacher_logits is None:
            raise ValueError("offline distillation needs the logits of its teachers")
        targets, weight = targets_and_weight(batch)
        shift = self.log_n if self.options.balanced else 0.0
        bil = collaborative.bil(batch.logits + self.log_n, targets, weight)
        tau = self.options.temperature
        target = F.log_softmax((torch.cat(batch.teacher_logits).mean(0) + shift) / tau, dim=-1)
        term = distillation.divergence(target, batch.logits + shift, tau)
        return {"loss": bil + self.options.weight * term, "bil": bil.detach(), "distillation": term.detach()}
