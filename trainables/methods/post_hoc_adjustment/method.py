"""Logit adjustment, after training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from trainables.methods.base import Images, Method, Prediction
from trainables.methods.post_hoc_adjustment.options import PostHocAdjustmentOptions
from trainables.models.network import Network, Outputs


class PostHocAdjustment(Method[PostHocAdjustmentOptions]):
    """Predicts ``z - τ log π``."""

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Nothing is to be fitted."""
        return {}

    def predict(self, outputs: Outputs) -> Prediction:
        """The adjusted logits."""
        log_prior = torch.log_softmax(self.log_n, dim=0)
        return Prediction(outputs.logits - self.options.tau * log_prior)
