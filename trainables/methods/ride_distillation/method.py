"""RIDE with distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.losses import distillation
from trainables.methods.base import Batch
from trainables.methods.ride.method import RIDE
from trainables.methods.ride_distillation.options import RIDEDistillationOptions


class RIDEDistillation(RIDE):
    """RIDE's loss plus ``weight · τ² Σ_k KL(p̄_teacher ‖ p_k)``, ``p̄`` of the teacher's mean logits.

    The released code adds RIDE's whole loss once per expert and distils into the mean; here each expert learns from it once.
    """

    options: RIDEDistillationOptions

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """RIDE's terms and the distillation term."""
        assert batch.teacher_logits is not None
        tau = self.options.distillation_temperature
        target = F.log_softmax(batch.teacher_logits[0].mean(0) / tau, dim=-1)
        term = distillation.divergence(target, batch.logits, tau)
        found = super().losses(batch)
        return {**found, "loss": found["loss"] + self.options.weight * term, "distillation": term.detach()}
