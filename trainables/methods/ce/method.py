"""Cross-entropy on the plain softmax."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import collaborative
from trainables.methods.base import Batch, Method
from trainables.methods.ce.options import CEOptions
from trainables.methods.targets import targets_and_weight


class CE(Method[CEOptions]):
    """``-log softmax(z)_y``: mean over copies and images, sum over (uncoupled) experts."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        targets, weight = targets_and_weight(batch)
        return {"loss": collaborative.bil(batch.logits, targets, weight)}
