"""Distillation from trained teachers.

Legend: ``M`` teachers, ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def offline(student: Tensor, teachers: Tensor, temperature: float = 1.0) -> Tensor:
    """``τ² · KL(softmax(mean of teachers / τ) ‖ softmax(student / τ))``: mean over ``T·B``, sum over experts.

    Args:
        student: logits ``[K, T, B, C]``.
        teachers: logits ``[M, T, B, C]``; no gradient flows into them.
        temperature: τ.
    """
    log_target = F.log_softmax(teachers.detach().mean(0) / temperature, dim=-1)  # [T, B, C]
    log_p = F.log_softmax(student / temperature, dim=-1)
    divergence = (log_target.exp() * (log_target - log_p)).sum(-1)  # [K, T, B]
    return temperature**2 * divergence.mean((1, 2)).sum()
