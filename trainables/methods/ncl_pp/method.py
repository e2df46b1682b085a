"""NCL++: nested collaborative learning, ``L = L_bil + λ1·L_intra + λ2·L_inter`` (eq. 14).

Legend: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes; logits ``z`` ``[K, T, B, C]``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables import draws
from trainables.config import TrialConfig
from trainables.losses import collaborative, official
from trainables.losses.collaborative import HardSet
from trainables.methods.base import Batch, Method
from trainables.methods.ncl_pp.options import NCLppOptions
from trainables.methods.targets import targets_and_weight


class NCLpp(Method[NCLppOptions]):
    """The whole of NCL++ with every part switchable; see ``NCLppOptions``."""

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Read which terms are present: without a second expert or copy, a term is zero and takes no weight."""
        super().__init__(config, class_counts)
        self.intra = self.options.intra and config.augmentation.copies > 1
        self.inter = self.options.inter and config.model.experts > 1
        self.hard = collaborative.number_of_hard_categories(self.options.beta, len(class_counts))
        self.partial = self.options.nfl and self.hard > 0
        # Learnable only over the terms that are present, or w would learn to put all weight on a missing one.
        present = self.intra + self.inter
        self.w = nn.Parameter(torch.zeros(present)) if self.options.weights == "learnable" and present else None

    def weights(self) -> tuple[Tensor | float, Tensor | float]:
        """λ1 (IntraCL) and λ2 (InterCL); learnable ones are ``softmax(w)`` over the terms that are present."""
        if self.w is None:
            return self.options.lambda_intra, self.options.lambda_inter
        learned = F.softmax(self.w, dim=0)
        return (learned[0] if self.intra else 0.0), (learned[-1] if self.inter else 0.0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its components, each before its weight."""
        terms = self._official(batch) if self.options.formulation == "official" else self._paper(batch)
        lambda_intra, lambda_inter = self.weights()
        loss = terms["bil"]
        if self.partial:
            loss = loss + terms["bil_partial"]
        if self.intra:
            loss = loss + lambda_intra * (terms["intra"] + terms.get("intra_partial", 0.0))
        if self.inter:
            loss = loss + lambda_inter * (terms["inter"] + terms.get("inter_partial", 0.0))
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _paper(self, batch: Batch) -> dict[str, Tensor]:
        z, detach = batch.logits, self.options.detach_teacher
        targets, weight = targets_and_weight(batch)
        balanced = z + self.log_n
        distilled = balanced if self.options.balanced_distillation else z
        log_p = F.log_softmax(distilled, dim=-1) if self.intra or self.inter else None

        terms = {"bil": collaborative.bil(balanced, targets, weight)}
        if log_p is not None and self.intra:
            terms["intra"] = collaborative.intra(log_p, detach_teacher=detach)
        if log_p is not None and self.inter:
            terms["inter"] = collaborative.inter(log_p, detach_teacher=detach)
        if self.partial:
            psi_bil, psi_inter, psi_intra = self._hard_sets(batch, targets)
            terms["bil_partial"] = collaborative.bil_partial(balanced, psi_bil, weight)
            if self.intra:
                terms["intra_partial"] = collaborative.intra_partial(distilled, psi_intra, detach_teacher=detach)
            if self.inter:
                terms["inter_partial"] = collaborative.inter_partial(distilled, psi_inter, detach_teacher=detach)
        return terms

    def _hard_sets(self, batch: Batch, targets: Tensor) -> tuple[HardSet, HardSet, HardSet]:
        """Ψ for BIL ``[K, T, B, S]``, for InterCL and for IntraCL, as ``hard_set`` says."""
        ranking = batch.logits if self.options.hard_select == "top" else self._random_ranking(batch)
        if self.options.hard_set == "own":
            own = collaborative.hard_set(ranking, targets, self.hard)
            return own, own, own
        first = collaborative.hard_set(ranking[:1], targets[:1], self.hard)  # [1, T, B, S]
        experts = batch.logits.shape[0]
        for_bil = first.each(lambda x: x.expand(experts, *x.shape[1:]))
        copy0 = first.each(lambda x: x[:, :1])
        return for_bil, first, copy0

    def _random_ranking(self, batch: Batch) -> Tensor:
        """Fresh uniform numbers for every expert, copy, image, class and epoch: ``[K, T, B, C]``."""
        k, t, _, c = batch.logits.shape
        device = batch.logits.device
        rows = torch.arange(k * t, device=device).view(k, t, 1)
        key = (batch.seed, draws.STREAMS["hard_random"], batch.epoch, batch.image, batch.occurrence, rows)
        return draws.uniforms(key, c, device=device)

    def _official(self, batch: Batch) -> dict[str, Tensor]:
        s = batch.logits + self.log_n
        targets, _ = targets_and_weight(batch)
        terms = {"bil": collaborative.bil(s, targets)}
        if self.intra:
            terms["intra"] = official.intra(s)
        if self.inter:
            terms["inter"] = official.inter(s)
        if self.partial:
            mask = official.hard_mask(batch.logits, batch.labels, self.options.beta)
            terms["bil_partial"] = official.bil_partial(s, mask, batch.labels)
            if self.intra:
                terms["intra_partial"] = official.intra(s, mask)
            if self.inter:
                terms["inter_partial"] = official.inter(s, mask)
        return terms

    def state_metrics(self) -> dict[str, float]:
        """λ1 and λ2 as they stand (Table 6)."""
        lambda_intra, lambda_inter = self.weights()
        return {
            **({"lambda_intra": float(torch.as_tensor(lambda_intra).detach())} if self.intra else {}),
            **({"lambda_inter": float(torch.as_tensor(lambda_inter).detach())} if self.inter else {}),
        }
