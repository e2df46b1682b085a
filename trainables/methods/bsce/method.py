"""Balanced softmax cross-entropy."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import collaborative
from trainables.methods.base import Batch, Method
from trainables.methods.bsce.options import BSCEOptions
from trainables.methods.targets import targets_and_weight


class BSCE(Method[BSCEOptions]):
    """``CE(z + log n)``, eq. 2, 3: mean over copies and images, sum over (uncoupled) experts."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        targets, weight = targets_and_weight(batch)
        return {"loss": collaborative.bil(batch.logits + self.log_n, targets, weight)}
