"""PaCo.

Legend: ``K`` experts, ``b`` images of this worker, ``B`` over all, ``Q`` keys in the queue, ``M = 2·B + Q``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.losses import contrastive
from trainables.methods.base import Batch, Method, accuracy
from trainables.methods.momentum import MomentumEncoder
from trainables.methods.paco.options import PaCoOptions
from trainables.models.network import Network


class PaCo(Method[PaCoOptions]):
    """See ``losses.contrastive.parametric``: anchors are the first views, contrasted with both views and the queue."""

    def prepare(self, network: Network) -> None:
        """Make the momentum encoder."""
        o = self.options
        self.slow = MomentumEncoder(network, o.dimension, o.queue, o.momentum, True)

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """The first view goes through the network, the second through the slow one."""
        query, key = batch.inputs.chunk(2)
        outputs = self.forward(network, query)
        with torch.no_grad():
            keys = self.parallel.rows(self.slow.keys(self.forward(self.slow.key_network, key)), 1)
        queries = self.slow.queries(outputs.features)
        everyone, labels = self.parallel.rows(queries, 1), self.parallel.rows(batch.labels)
        others = torch.cat([labels, labels, self.slow.labels])
        first = int(self.parallel.first(batch.labels))
        itself = torch.zeros(len(batch.labels), len(others), dtype=torch.bool, device=others.device)
        own = torch.arange(len(batch.labels), device=others.device)
        itself[own, first + own] = True
        loss = queries.new_zeros(())
        for k, z in enumerate(outputs.logits):
            contrast = torch.cat([everyone[k], keys[k], self.slow.queue[k].to(keys.dtype)])
            scores = queries[k] @ contrast.T / self.options.temperature
            log_prior = torch.log_softmax(self.log_n, 0)
            a, b = self.options.alpha, self.options.beta
            loss = loss + contrastive.parametric(z + log_prior, batch.labels, scores, others, itself, a, b).mean()
        self.slow.coming.append((keys, labels))
        return {"loss": loss, "top1": accuracy(outputs.logits, batch.labels)}

    def after_step(self, network: Network) -> None:
        """Follow, and fill the queue."""
        self.slow.update(network)
