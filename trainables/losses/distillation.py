"""Distillation: KL from a target distribution to what a network predicts.

Legend: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def divergence(log_target: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """``τ² · KL(target ‖ softmax(student / τ))``, mean over ``T·B``, sum over experts.

    Args:
        log_target: log-probabilities that broadcast against ``student``; no gradient flows into them.
        student: logits ``[K, T, B, C]``.
        temperature: τ, of the student; τ² is Hinton's factor.
    """
    log_target = log_target.detach()
    log_p = F.log_softmax(student / temperature, dim=-1)
    # Where a target is zero its term is zero, though its logarithm is -inf.
    terms = (log_target.exp() * (log_target.clamp_min(-1e4) - log_p)).sum(-1)  # [K, T, B]
    return temperature**2 * terms.mean((1, 2)).sum()


def virtual_examples(teacher: Tensor, temperature: float, power: float) -> Tensor:
    """DiVE's target, eq. 5, 13, 14: ``softmax(z_t/τ)^p`` renormalised, which is ``softmax(p·z_t/τ)``; log-probabilities.

    ``teacher`` are logits ``[..., C]``.
    """
    return F.log_softmax(teacher * (power / temperature), dim=-1)


def label_factored(log_target: Tensor, labels: Tensor, alpha: float, power: float) -> Tensor:
    """DiVE's eq. 6 with 13, 14: ``((1 - α)·y + α·t)^p`` renormalised; log-probabilities ``[..., B, C]``, labels ``[B]``."""
    one_hot = F.one_hot(labels, log_target.shape[-1]).to(log_target.dtype)
    mixed = (1 - alpha) * one_hot + alpha * log_target.exp()
    return F.log_softmax(power * mixed.log(), dim=-1)
