"""RIDE's diversity term (Wang et al., ICLR 2021), which is subtracted from the loss.

Legend: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes; logits ``z`` ``[K, T, B, C]``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.losses.collaborative import pairwise_kl


def class_temperature(n: Tensor, share: float = 0.05) -> Tensor:
    """``τ_j = (γ·C·π_j + 1 - γ)/max``, γ = ``share``: 1 for the largest class, less for small ones; ``[C]`` of counts."""
    raw = share * len(n) * n / n.sum() + (1 - share)
    return raw / raw.max()


def pairs(z: Tensor, temperature: Tensor | float) -> Tensor:
    """``1/(K-1) Σ_i Σ_{j≠i} KL(p_i ‖ p_j)`` of ``p = softmax(z/τ)``, mean over ``T·B``."""
    return pairwise_kl(F.log_softmax(z / temperature, dim=-1), 0).mean() / (len(z) - 1)


def from_mean(z: Tensor, temperature: Tensor | float, factor: float) -> Tensor:
    """``τ̄² Σ_k KL(softmax(z̄/τ) ‖ softmax(z_k/τ))``, ``z̄`` the detached mean over experts: the released code's."""
    log_mean = F.log_softmax(z.detach().mean(0) / temperature, dim=-1)
    log_p = F.log_softmax(z / temperature, dim=-1)
    return factor * (log_mean.exp() * (log_mean - log_p)).sum(-1).mean((1, 2)).sum()
