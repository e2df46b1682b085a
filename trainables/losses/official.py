"""NCL++ as the authors' released code computes it, so that its users can reproduce their numbers.

It departs from the paper's text: the hard set counts the target, comes from expert 0 and is shared; the partial BIL keeps
the other classes in the denominator with logit 0; the partial KL terms are not renormalised; probabilities carry ``+ 1e-9``
inside a logarithm. Counts enter raw: this form is not shift-invariant. Sums run over the masked entries only, which keeps
every gradient finite where a literal transcription gives NaN.

Legend as in ``collaborative``: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes; ``s = z + log n`` ``[K, T, B, C]``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-9


def hard_mask(logits: Tensor, labels: Tensor, beta: float) -> Tensor:
    """0/1 indicator of the hard set of every row, from expert 0's raw logits: ``[T, B, C]``; the target is counted.

    Args:
        logits: raw logits ``[K, T, B, C]``.
        labels: int64 ``[B]``.
        beta: ``N_hard = floor(β·C + 0.5)``, at least 1, at most C, classes in total.
    """
    first = logits[0].detach()
    classes = first.shape[-1]
    total = min(max(math.floor(beta * classes + 0.5), 1), classes)
    target = labels.expand(first.shape[:-1]).unsqueeze(-1)
    chosen = first.scatter(-1, target, math.inf).topk(total, dim=-1).indices
    return torch.zeros_like(first).scatter(-1, chosen, 1.0)


def bil_partial(s: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """``CE(s · mask)``: sum over experts, mean over T·B."""
    log_p = F.log_softmax(s * mask, dim=-1)
    target = labels.expand(s.shape[:-1]).unsqueeze(-1)
    return -log_p.gather(-1, target)[..., 0].mean((1, 2)).sum()


def pairwise_kl(s: Tensor, dim: int, mask: Tensor | None = None) -> Tensor:
    """``Σ_i Σ_{j≠i} Σ_c mask·p_j·(log p_j - log(p_i + 1e-9))`` over ``dim``, linear in its length; ``dim`` and C are gone."""
    n = s.shape[dim]
    log_p = F.log_softmax(s, dim=-1)
    p = log_p.exp()
    shifted = torch.log(p + _EPS)
    others = shifted.sum(dim, keepdim=True) - shifted
    terms = p * ((n - 1) * log_p - others)
    if mask is not None:
        terms = terms * mask
    return terms.sum((dim, -1))


def inter(s: Tensor, mask: Tensor | None = None) -> Tensor:
    """InterCL: ``Σ KL / (K(K-1)/2)``, mean over T·B; ``mask`` ``[T, B, C]`` for the partial part; 0 when K = 1."""
    k = s.shape[0]
    return s.new_zeros(()) if k == 1 else pairwise_kl(s, 0, mask).mean() * (2 / (k * (k - 1)))


def intra(s: Tensor, mask: Tensor | None = None) -> Tensor:
    """IntraCL: ``Σ KL / (T(T-1)/2)``, mean over B, sum over experts; the first copy's mask holds for all; 0 when T = 1."""
    t = s.shape[1]
    if t == 1:
        return s.new_zeros(())
    first = None if mask is None else mask[:1]
    return pairwise_kl(s, 1, first).mean(1).sum() * (2 / (t * (t - 1)))
