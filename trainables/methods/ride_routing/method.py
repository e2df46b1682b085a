"""RIDE's routing.

Legend: ``K`` experts, ``N`` rows (``T·B`` in training), ``C`` classes, ``D`` features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.methods.base import Batch, Method, Prediction, accuracy
from trainables.methods.ride_routing.options import RIDERoutingOptions
from trainables.models.network import Network, Outputs, freeze


class RIDERouting(Method[RIDERoutingOptions]):
    """Experts are asked in order; router i says whether expert i + 1 is asked too, and the logits of all asked are averaged.

    A router sees the largest logits of the mean so far, sorted, and ``ReLU(H_i f_i/‖f_i‖ + h_i)``; its last layer is shared. It
    learns by BCE that it should go on where the mean so far is wrong and a longer one is right.
    """

    def prepare(self, network: Network) -> None:
        """Freeze the experts and make the routers."""
        freeze(network)
        routers = len(network.experts) - 1
        self.views = nn.ModuleList(nn.Linear(network.features, self.options.units) for _ in range(routers))
        self.head = nn.Linear(min(self.options.top, len(self.class_counts)) + self.options.units, 1)

    def parameter_groups(self, network: Network) -> list[dict[str, Any]]:
        """The routers, with the stage's weight decay."""
        return [{"params": list(self.parameters()), "weight_decay": self.config.loop.optimizer.weight_decay}]

    def scores(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Routers' scores ``[K-1, N]`` and the mean logits of the first 1, …, K experts ``[K, N, C]``."""
        number = torch.arange(1, len(outputs.logits) + 1, device=outputs.logits.device)
        prefix = outputs.logits.cumsum(0) / number[:, None, None]
        found = []
        for i, view in enumerate(self.views):
            top = prefix[i].topk(self.head.in_features - self.options.units, dim=-1).values
            seen = F.relu(view(F.normalize(outputs.features[i], dim=-1)))
            found.append(self.head(torch.cat([top, seen], -1))[:, 0])
        return torch.stack(found), prefix

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """BCE of the routers, mean over rows and routers."""
        with torch.no_grad():
            outputs = self.forward(network, batch.inputs)
        scores, prefix = self.scores(outputs)
        labels = batch.labels.repeat(len(batch.inputs) // len(batch.labels))
        loss = self.routing_loss(scores, prefix, labels)
        return {"loss": loss, "top1": accuracy(prefix[-1], labels)}

    def routing_loss(self, scores: Tensor, prefix: Tensor, labels: Tensor) -> Tensor:
        """Of scores ``[K-1, N]``, mean logits so far ``[K, N, C]`` and labels ``[N]``."""
        right = prefix.argmax(-1) == labels  # [K, N]
        later = right.flip(0).cummax(0).values.flip(0)[1:]  # is some longer mean right?
        target = (~right[:-1] & later).to(scores.dtype)
        weight = scores.new_full((), self.options.positive_weight)
        return F.binary_cross_entropy_with_logits(scores, target, pos_weight=weight)

    def predict(self, outputs: Outputs) -> Prediction:
        """The mean of the experts that were asked, and how many these were."""
        scores, prefix = self.scores(outputs)
        used = 1 + (scores > 0).long().cumprod(0).sum(0)  # [N]
        logits = prefix.gather(0, (used - 1)[None, :, None].expand(1, -1, prefix.shape[-1]))
        return Prediction(logits, {"experts_used": used})
