"""Label-distribution-aware margins."""

from __future__ import annotations

from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import single, weights
from trainables.methods.base import Batch
from trainables.methods.ldam.options import LDAMOptions
from trainables.methods.single_loss import SingleLoss


class LDAM(SingleLoss[LDAMOptions]):
    """Cross-entropy with ``s·m_y``, ``m_j ∝ n_j^{-1/4}``, taken off the label's logit; s is the cosine classifier's scale."""

    margins: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep the margins ``[C]``."""
        super().__init__(config, class_counts)
        scale = config.model.cosine_scale if config.model.classifier == "cosine" else 1.0
        made = scale * weights.margins(class_counts.double(), self.options.max_margin)
        self.register_buffer("margins", made.to(self.dtype), persistent=False)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.margin(z, labels, self.margins)
