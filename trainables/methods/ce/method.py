"""Cross-entropy on the plain softmax."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import single
from trainables.methods.base import Batch
from trainables.methods.ce.options import CEOptions
from trainables.methods.single_loss import SingleLoss


class CE(SingleLoss[CEOptions]):
    """``-log softmax(z)_y``."""

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z, labels, self.options.label_smoothing)
