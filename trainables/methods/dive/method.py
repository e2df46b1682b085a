"""DiVE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import collaborative, distillation
from trainables.methods.base import Batch, Method
from trainables.methods.dive.options import DiVEOptions
from trainables.methods.targets import targets_and_weight

if TYPE_CHECKING:
    from trainables.trained import Trained


class DiVE(Method[DiVEOptions]):
    """``(1-α)·BSCE + α·τ²·KL(norm(softmax(z_t/τ)^p) ‖ softmax(z_s/τ))`` (eq. 15), of each expert.

    A teacher of several experts teaches by its mean logits.
    """

    rule: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """τ and p are a part of what is kept: a rule may have chosen them."""
        super().__init__(config, class_counts)
        given = self.options.temperature or 1.0, self.options.power
        self.register_buffer("rule", torch.tensor(given, dtype=self.dtype))
        self._read()

    def adopt(self, selection: Trained) -> None:
        """Take over τ and p."""
        self.rule.copy_(selection.method.get_buffer("rule"))
        self._read()

    def _read(self) -> None:
        """Once: at every step it would wait for the device."""
        self.tau, self.power = float(self.rule[0]), float(self.rule[1])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """BSCE and the distillation term."""
        assert batch.teacher_logits is not None
        tau, power = self.tau, self.power
        teacher = batch.teacher_logits[0].mean(0)  # [T, B, C]
        alpha = self.options.alpha
        if self.options.target == "teacher":
            target = distillation.virtual_examples(teacher, tau, power)
        else:
            plain = distillation.virtual_examples(teacher, tau, 1.0)
            target = distillation.label_factored(plain, batch.labels, alpha, power)
        term = distillation.divergence(target, batch.logits, tau)
        if not self.options.bsce:
            return {"loss": term, "distillation": term.detach()}
        targets, weight = targets_and_weight(batch)
        bil = collaborative.bil(batch.logits + self.log_n, targets, weight)
        return {"loss": (1 - alpha) * bil + alpha * term, "bil": bil.detach(), "distillation": term.detach()}

    def state_metrics(self) -> dict[str, float]:
        """τ and p."""
        return {"temperature": float(self.rule[0]), "power": float(self.rule[1])}
