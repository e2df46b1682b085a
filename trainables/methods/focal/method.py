"""Focal loss."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.focal.options import FocalOptions
from trainables.methods.single_loss import SingleLoss, of_both_labels


class Focal(SingleLoss[FocalOptions]):
    """``-(1 - p_y)^γ log p_y``."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        if self.options.form == "sigmoid":
            return single.sigmoid(z, labels, self.options.gamma)
        return single.focal(z, labels, self.options.gamma)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        if self.options.form != "softmax_weight_inside" or not self.weighted(batch.epoch):
            return super().losses(batch)

        def inside(labels: Tensor) -> Tensor:
            return single.focal_of(
                self.weights[labels] * single.cross_entropy(batch.logits, labels), self.options.gamma
            )

        return {"loss": of_both_labels(batch, inside).mean((1, 2)).sum()}
