"""BCL.

Legend: ``K`` experts, ``b`` images of this worker, ``B`` over all, ``C`` classes, ``P`` dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.losses import contrastive, single
from trainables.methods.base import Batch, Method, accuracy
from trainables.methods.bcl.options import BCLOptions
from trainables.methods.momentum import projection
from trainables.models.network import Network


class BCL(Method[BCLOptions]):
    """``CE(z + log π) + μ·BCL``; prototypes are projections of the classifier's rows (``losses.contrastive.balanced``)."""

    def prepare(self, network: Network) -> None:
        """Projections of features and of prototypes, for each expert."""
        experts = range(len(network.experts))
        self.projections = nn.ModuleList(projection(network.features, self.options.dimension) for _ in experts)
        self.prototypes = nn.ModuleList(projection(network.features, self.options.dimension) for _ in experts)

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """One pass of all three views."""
        outputs = self.forward(network, batch.inputs)
        b = len(batch.labels)
        z = outputs.logits[:, :b]
        supervised = single.cross_entropy(z + self.log_n, batch.labels).mean(1).sum()
        term = z.new_zeros(())
        for k, expert in enumerate(network.branches):
            two = F.normalize(self.projections[k](outputs.features[k, b:]), dim=-1).unflatten(0, (2, b))
            centres = F.normalize(self.prototypes[k](expert.classifier.get_parameter("weight").to(two.dtype)), dim=-1)
            term = term + self.contrast(two, batch.labels, centres)
        loss = supervised + self.options.contrastive_weight * term
        return {
            "loss": loss,
            "supervised": supervised.detach(),
            "contrastive": term.detach(),
            "top1": accuracy(z, batch.labels),
        }

    def contrast(self, two: Tensor, labels: Tensor, centres: Tensor) -> Tensor:
        """Mean over this worker's anchors: directions ``[2, b, P]``, labels ``[b]``, prototypes ``[C, P]``."""
        tau = self.options.temperature
        everyone, all_labels = self.parallel.rows(two, 1), self.parallel.rows(labels)
        size, first = len(all_labels), int(self.parallel.first(labels))
        others = everyone.flatten(0, 1)
        own = torch.arange(len(labels), device=labels.device)
        losses = []
        for view in range(2):
            itself = torch.zeros(len(labels), 2 * size, dtype=torch.bool, device=labels.device)
            itself[own, view * size + first + own] = True
            scores, prototypes = two[view] @ others.T / tau, two[view] @ centres.T / tau
            losses.append(contrastive.balanced(scores, labels, all_labels.repeat(2), itself, prototypes))
        return torch.stack(losses).mean()
