"""NCL of CVPR 2022.

Legend: ``K`` experts, ``B`` images, ``C`` classes; logits ``z`` ``[K, 1, B, C]`` of the first view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.losses import collaborative, contrastive, official
from trainables.methods.base import Batch, Method, accuracy
from trainables.methods.momentum import MomentumEncoder
from trainables.methods.ncl.options import NCLOptions
from trainables.models.network import Network


class NCL(Method[NCLOptions]):
    """``L_bil + λ L_inter``, each with its partial part, ``+ w Σ_k InfoNCE_k``."""

    def prepare(self, network: Network) -> None:
        """Make the momentum encoder."""
        o = self.options
        self.slow = MomentumEncoder(network, o.dimension, o.queue, o.momentum, o.formulation == "paper")

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """The first view goes through the network, the second through the slow one."""
        query, key = batch.inputs.chunk(2)
        outputs = self.forward(network, query)
        with torch.no_grad():
            keys = self.slow.keys(self.forward(self.slow.key_network, key))
        queries = self.slow.queries(outputs.features)
        queue = self.slow.queue.to(queries.dtype)
        terms = self.supervised(outputs.logits[:, None], batch.labels)
        terms["contrastive"] = torch.stack(
            [
                contrastive.info_nce(q, k, old, self.options.temperature)
                for q, k, old in zip(queries, keys, queue, strict=True)
            ]
        ).sum()
        self.slow.coming.append((self.parallel.rows(keys, 1).detach(), self.parallel.rows(batch.labels)))
        loss = terms["bil"] + self.options.inter_weight * terms["inter"]
        loss = loss + self.options.contrastive_weight * terms["contrastive"]
        top1 = accuracy(outputs.logits, batch.labels)
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}, "top1": top1}

    def supervised(self, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """BIL and InterCL with their partial parts, of logits ``[K, 1, B, C]``."""
        if self.options.formulation == "official":
            return self._official(z, labels)
        targets = labels.expand(z.shape[:-1]).unsqueeze(-1)
        balanced = z + self.log_n
        bil = collaborative.bil(balanced, targets)
        inter = collaborative.inter(F.log_softmax(balanced, dim=-1))
        hard = collaborative.number_of_hard_categories(self.options.beta, z.shape[-1])
        if self.options.nfl and hard:
            psi = collaborative.hard_set(z, targets, hard)
            bil = bil + collaborative.bil_partial(balanced, psi)
            inter = inter + collaborative.inter_partial(balanced, psi)
        return {"bil": bil, "inter": inter}

    def _official(self, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
        s = z + self.log_n
        factor = len(z) / 2  # pairs are divided by K - 1 and not by K(K-1)/2
        bil, inter = collaborative.bil(s, labels.expand(z.shape[:-1]).unsqueeze(-1)), factor * official.inter(s)
        if self.options.nfl:
            mask = official.hard_mask(z, labels, self.options.beta)
            bil = bil + official.bil_partial(s, mask, labels)
            # The released class has the masked logits themselves in the partial KL.
            inter = inter + factor * official.inter(s * mask)
        return {"bil": bil, "inter": inter}

    def after_step(self, network: Network) -> None:
        """Follow, and fill the queue."""
        self.slow.update(network)
