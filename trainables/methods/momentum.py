"""A momentum encoder with projection heads and a queue of its keys (MoCo: He et al., CVPR 2020).

Legend: ``K`` experts, ``B`` images over all workers, ``b`` of this one, ``D`` features, ``P`` projected,
``Q`` keys in the queue.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.network import Network, Outputs


def projection(features: int, dimension: int) -> nn.Sequential:
    """``[N, D]`` to ``[N, P]``."""
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, dimension))


class MomentumEncoder(nn.Module):
    """A copy of a network and its projections that follows them slowly, and the keys that it has made."""

    queue: Tensor
    labels: Tensor
    position: Tensor

    def __init__(self, network: Network, dimension: int, size: int, momentum: float, follow_projection: bool) -> None:
        """Start as a copy; the queue holds random directions of no class (label -1).

        Without ``follow_projection`` the copied projections start at random and stay so, as in NCL's released code.
        """
        super().__init__()
        self.projections = nn.ModuleList(projection(network.features, dimension) for _ in network.experts)
        self.key_network = copy.deepcopy(network).requires_grad_(False)
        for expert in self.key_network.branches:
            expert.classifier = nn.Identity()
        self.key_projections = copy.deepcopy(self.projections)
        if not follow_projection:
            for head in self.key_projections:
                for layer in head.modules():
                    if isinstance(layer, nn.Linear):
                        layer.reset_parameters()
        self.key_projections.requires_grad_(False)
        self.momentum, self.follow_projection = momentum, follow_projection
        self.register_buffer("queue", F.normalize(torch.randn(len(network.experts), size, dimension), dim=-1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.coming: list[tuple[Tensor, Tensor]] = []  # keys [K, B, P] and labels [B] of this optimiser step

    def queries(self, features: Tensor) -> Tensor:
        """Directions ``[K, b, P]`` of features ``[K, b, D]``."""
        return F.normalize(torch.stack([h(f) for h, f in zip(self.projections, features, strict=True)]), dim=-1)

    @torch.no_grad()
    def keys(self, outputs: Outputs) -> Tensor:
        """Directions ``[K, b, P]`` of what ``key_network`` made of its view."""
        pairs = zip(self.key_projections, outputs.features, strict=True)
        return F.normalize(torch.stack([head(f) for head, f in pairs]), dim=-1)

    @torch.no_grad()
    def update(self, network: Network) -> None:
        """After an optimiser step: follow, and put the new keys in place of the oldest."""
        pairs: list[tuple[nn.Module, nn.Module]] = [(self.key_network.trunk, network.trunk)]
        pairs += [(k.branch, q.branch) for k, q in zip(self.key_network.branches, network.branches, strict=True)]
        if self.follow_projection:
            pairs.append((self.key_projections, self.projections))
        for slow, fast in pairs:
            for mine, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
                mine.lerp_(theirs, 1 - self.momentum)
        for keys, labels in self.coming:
            size = self.queue.shape[1]
            keys, labels = keys[:, -size:], labels[-size:]
            at = (self.position + torch.arange(len(labels), device=keys.device)) % size
            self.queue[:, at] = keys.to(self.queue.dtype)
            self.labels[at] = labels
            self.position.copy_((self.position + len(labels)) % size)
        self.coming.clear()
