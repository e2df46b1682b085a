"""τ-normalised classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.methods.base import Images, Method, Prediction
from trainables.methods.tau_norm.options import GRID, TauNormOptions
from trainables.metrics import hits, per_class_mean
from trainables.models.network import Network, Outputs

if TYPE_CHECKING:
    from trainables.trained import Trained


class TauNorm(Method[TauNormOptions]):
    """Predicts ``w_j·f / ‖w_j‖^τ``."""

    tau: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """τ is a part of what is kept."""
        super().__init__(config, class_counts)
        self.register_buffer("tau", torch.tensor(self.options.tau or 0.0, dtype=self.dtype))
        self.linear: list[nn.Linear] = []

    def prepare(self, network: Network) -> None:
        """Remember the heads."""
        self.linear = [expert.classifier for expert in network.branches if isinstance(expert.classifier, nn.Linear)]

    def adopt(self, selection: Trained) -> None:
        """Take over the τ that another trial has chosen."""
        self.tau.copy_(selection.method.get_buffer("tau"))

    def normalised(self, features: Tensor, tau: Tensor) -> Tensor:
        """Logits ``[K, N, C]`` of features ``[K, N, D]``."""
        logits = []
        for linear, f in zip(self.linear, features, strict=True):
            weight = linear.weight / linear.weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau
            logits.append(torch.nn.functional.linear(f, weight, linear.bias if self.options.bias else None))
        return torch.stack(logits)

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Choose τ by the mean over classes of the validation accuracy, unless it is given or was chosen before."""
        if self.options.tau is not None or validation is None:
            return {}
        seen = [(self.forward(network, images.inputs).features, images.labels) for images in validation]
        features, labels = torch.cat([f for f, _ in seen], 1), torch.cat([y for _, y in seen])
        best, scores = 0.0, []
        for tau in GRID:
            right = hits(self.normalised(features, self.tau.new_tensor(tau)), labels, 1).double().mean(0)
            scores.append(float(per_class_mean(right, labels, len(self.class_counts)).nanmean()))
            if scores[-1] == max(scores) and scores.count(scores[-1]) == 1:
                best = tau
        self.tau.fill_(best)
        return {}

    def predict(self, outputs: Outputs) -> Prediction:
        """With normalised rows."""
        return Prediction(self.normalised(outputs.features, self.tau))

    def state_metrics(self) -> dict[str, float]:
        """τ."""
        return {"tau": float(self.tau)}
