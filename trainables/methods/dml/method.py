"""Deep mutual learning."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.losses import collaborative, single
from trainables.methods.base import Batch
from trainables.methods.dml.options import DMLOptions
from trainables.methods.single_loss import SingleLoss


class DML(SingleLoss[DMLOptions]):
    """``Σ_k CE(z_k) + weight/(K-1) Σ_k Σ_{q≠k} KL(p_q ‖ p_k)``, no gradient through the first argument (eq. 5-8)."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z, labels)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Both terms."""
        z = batch.logits + self.log_n if self.options.balanced else batch.logits
        own = self.mean_loss(batch, lambda labels: self.sample_losses(z, labels, batch))
        pairs = collaborative.pairwise_kl(F.log_softmax(z, dim=-1), 0, detach_teacher=True)
        mutual = pairs.mean() / (len(z) - 1)
        loss = own + self.options.weight * mutual
        return {"loss": loss, "own": own.detach(), "mutual": mutual.detach()}
