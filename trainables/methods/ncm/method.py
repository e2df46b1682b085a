"""Nearest class mean."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import TrialConfig
from trainables.methods.base import Images, Method, Prediction
from trainables.methods.ncm.options import NCMOptions
from trainables.models.network import Network, Outputs


class NCM(Method[NCMOptions]):
    """Scores are the (negative squared) distances to class means of training features."""

    means: Tensor
    centre: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Means are a part of what is kept; they are made in ``prepare``."""
        super().__init__(config, class_counts)

    def prepare(self, network: Network) -> None:
        """Room for the class means ``[K, C, D]`` and the centre ``[K, 1, D]``."""
        experts, classes = len(network.experts), len(self.class_counts)
        self.register_buffer("means", torch.zeros(experts, classes, network.features, dtype=self.dtype))
        self.register_buffer("centre", torch.zeros(experts, 1, network.features, dtype=self.dtype))

    def transformed(self, features: Tensor) -> Tensor:
        """Features ``[K, N, D]`` as they are compared."""
        if self.options.features == "un":
            return features
        return F.normalize(features - self.centre if self.options.features == "cl2n" else features, dim=-1)

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Class means over the training images."""
        seen = [(self.forward(network, images.inputs).features, images.labels) for images in training]
        features, labels = torch.cat([f for f, _ in seen], 1), torch.cat([y for _, y in seen])
        self.centre.copy_(features.mean(1, keepdim=True))
        sums = torch.zeros_like(self.means).index_add_(1, labels, self.transformed(features).to(self.means.dtype))
        self.means.copy_(sums / self.class_counts[:, None])
        return {}

    def predict(self, outputs: Outputs) -> Prediction:
        """Scores ``[K, N, C]``."""
        f = self.transformed(outputs.features)
        if self.options.distance == "euclidean":
            return Prediction(-torch.cdist(f, self.means).square())
        if self.options.distance == "cosine":
            return Prediction(F.normalize(f, dim=-1) @ F.normalize(self.means, dim=-1).transpose(1, 2))
        return Prediction(f @ self.means.transpose(1, 2) / f.shape[-1])
