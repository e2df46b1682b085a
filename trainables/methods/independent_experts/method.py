"""Independent experts."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.independent_experts.options import IndependentExpertsOptions
from trainables.methods.single_loss import SingleLoss


class IndependentExperts(SingleLoss[IndependentExpertsOptions]):
    """``Σ_k CE(z_k, y)``, or ``CE(mean_k z_k, y)`` without diversity."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``, or ``[1, T, B]``."""
        z = z if self.options.diversity else z.mean(0, keepdim=True)
        return single.cross_entropy(z + self.log_n if self.options.loss == "bsce" else z, labels)
