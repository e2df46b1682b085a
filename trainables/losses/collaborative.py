"""The losses of NCL++ (Tan et al., Pattern Recognition 147, 2024): BIL, InterCL, IntraCL, their partial parts, HCM.

Legend: ``K`` experts, ``T`` augmented copies, ``B`` images, ``C`` classes, ``S`` classes in a support Ψ (the target, or
the two targets of mixup, first, then the hard negatives). Scores ``s`` are ``z + log n`` where the balanced
probabilities of eq. 2 are meant and raw logits ``z`` where plain ones are. Everything is finite for |z| up to 1e4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# A score of classes that a support does not hold: far below any logit, yet finite, so that 0 · log 0 stays 0.
_ABSENT = -1e9


@dataclass(frozen=True)
class HardSet:
    """Ψ of every row: class indices and, where rows hold fewer than ``S``, which entries count."""

    index: Tensor  # int64 [..., S]
    valid: Tensor | None  # bool [..., S]; None: all

    def each(self, change: Callable[[Tensor], Tensor]) -> HardSet:
        """The same change of both."""
        return HardSet(change(self.index), None if self.valid is None else change(self.valid))


def number_of_hard_categories(beta: float, classes: int) -> int:
    """``C_hard = floor(β·C + 0.5)``, at least 1 when β > 0 and at most C - 1; 0 when β = 0 (eq. 7)."""
    if beta == 0:
        return 0
    return min(max(math.floor(beta * classes + 0.5), 1), classes - 1)


def hard_set(ranking: Tensor, targets: Tensor, hard: int) -> HardSet:
    """HCM, eq. 7: the targets and the ``hard`` other classes that rank highest.

    Args:
        ranking: ``[..., C]``; raw logits, or random numbers for the random control of Fig. 6b.
        targets: int64 ``[..., M]``, M = 1, or 2 with mixup; the two may be equal.
        hard: how many negatives.
    """
    masked = ranking.detach().scatter(-1, targets, -math.inf)
    scores, negatives = masked.topk(hard, dim=-1)
    index = torch.cat([targets, negatives], dim=-1)
    if targets.shape[-1] == 1:
        return HardSet(index, None)
    # Mixup: the two labels may be one class, and two labels may leave fewer than `hard` negatives.
    second = targets[..., 1:] != targets[..., :1]
    valid = torch.cat([torch.ones_like(second), second, scores > -math.inf], dim=-1)
    return HardSet(index, valid)


def gather(scores: Tensor, psi: HardSet) -> Tensor:
    """The scores of a support: ``[..., C]`` and Ψ ``[..., S]`` give ``[..., S]``."""
    picked = scores.gather(-1, psi.index)
    return picked if psi.valid is None else picked.masked_fill(~psi.valid, _ABSENT)


def pairwise_kl(log_p: Tensor, dim: int, *, detach_teacher: bool = False) -> Tensor:
    """``Σ_i Σ_{j≠i} KL(p_i ‖ p_j)`` over ``dim`` of ``[..., n, ..., C]``, in time linear in n; ``dim`` and C are gone.

    ``Σ_{j≠i} KL(p_i ‖ p_j) = ⟨p_i, (n-1)·log p_i - (Σ_j log p_j - log p_i)⟩``: the difference is taken class by class
    before it is weighted, so that equal distributions give 0 without cancellation.
    """
    n = log_p.shape[dim]
    own = log_p.detach() if detach_teacher else log_p
    others = log_p.sum(dim, keepdim=True) - log_p
    return (own.exp() * ((n - 1) * own - others)).sum((dim, -1))


def pairwise_kl_own_support(scores: Tensor, psi: HardSet, dim: int, *, detach_teacher: bool = False) -> Tensor:
    """``Σ_i Σ_{j≠i} KL(p*_i ‖ p*_j)``, both renormalised over the Ψ of the first argument (eq. 8, 11, 13).

    Args:
        scores: ``[..., n, ..., C]`` with the pairs over ``dim``.
        psi: supports ``[..., n, ..., S]``. They differ from row to row, so this is quadratic in n.
        dim: the dimension of the pairs, counted from the front.
        detach_teacher: no gradient through the first argument.
    """
    n = scores.shape[dim]
    # rows i (whose Ψ it is) at `dim`, columns j at `dim + 1`
    shape = [*scores.shape[: dim + 1], n, *scores.shape[dim + 1 :]]
    columns = scores.unsqueeze(dim).expand(shape)
    support = psi.each(lambda x: x.unsqueeze(dim + 1).expand(*shape[:-1], -1))
    log_p = F.log_softmax(gather(columns, support), dim=-1)
    own = torch.diagonal(log_p, dim1=dim, dim2=dim + 1).movedim(-1, dim)  # [..., n, ..., S]
    if detach_teacher:
        own = own.detach()
        log_p = torch.where(_eye(n, dim, log_p), own.unsqueeze(dim + 1), log_p)  # j = i adds no gradient either
    return (own.exp() * (n * own - log_p.sum(dim + 1))).sum((dim, -1))


def _eye(n: int, dim: int, like: Tensor) -> Tensor:
    shape = [1] * like.dim()
    shape[dim] = shape[dim + 1] = n
    return torch.eye(n, dtype=torch.bool, device=like.device).view(shape)


def _target_log_likelihood(log_p: Tensor, targets: Tensor, weight: Tensor | None) -> Tensor:
    picked = log_p.gather(-1, targets)
    return picked[..., 0] if weight is None else (picked * weight).sum(-1)


def bil(scores: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """Balanced individual learning, global part, eq. 3: sum over experts, mean over the T·B samples.

    Args:
        scores: ``z + log n``, ``[K, T, B, C]``.
        targets: int64 ``[K, T, B, M]``; M = 2 with mixup.
        weight: ``[B, M]`` coefficients of the targets; None: M = 1.
    """
    likelihood = _target_log_likelihood(F.log_softmax(scores, dim=-1), targets, weight)  # [K, T, B]
    return -likelihood.mean((1, 2)).sum()


def bil_partial(scores: Tensor, psi: HardSet, weight: Tensor | None = None) -> Tensor:
    """Balanced individual learning over the hard set, eq. 9: ``scores`` ``[K, T, B, C]``, Ψ ``[K, T, B, S]``."""
    log_p = F.log_softmax(gather(scores, psi), dim=-1)
    if weight is None:
        return -log_p[..., 0].mean((1, 2)).sum()
    first, second = log_p[..., 0], log_p[..., 1]
    if psi.valid is not None:  # both labels the same class: its entry is the first
        second = torch.where(psi.valid[..., 1], second, first)
    return -(weight[:, 0] * first + weight[:, 1] * second).mean((1, 2)).sum()


def inter(log_p: Tensor, *, detach_teacher: bool = False) -> Tensor:
    """InterCL, global part, eq. 4: ``2/(K(K-1)) Σ KL`` over experts, mean over T·B; 0 when K = 1. ``[K, T, B, C]``."""
    return _mean_pairs(log_p.shape[0], lambda: pairwise_kl(log_p, 0, detach_teacher=detach_teacher).mean(), log_p)


def inter_partial(scores: Tensor, psi: HardSet, *, detach_teacher: bool = False) -> Tensor:
    """InterCL over hard sets, eq. 11. Ψ ``[K, T, B, S]``: own; ``[1, T, B, S]``: shared by all experts."""
    k = scores.shape[0]
    if psi.index.shape[0] == 1:
        shared = psi.each(lambda x: x.expand(k, *x.shape[1:]))
        log_p = F.log_softmax(gather(scores, shared), dim=-1)
        return inter(log_p, detach_teacher=detach_teacher)
    return _mean_pairs(k, lambda: pairwise_kl_own_support(scores, psi, 0, detach_teacher=detach_teacher).mean(), scores)


def intra(log_p: Tensor, *, detach_teacher: bool = False) -> Tensor:
    """IntraCL, global part, eq. 5, 6: ``2/(T(T-1)) Σ KL`` over copies, mean over B, sum over experts. ``[K, T, B, C]``."""
    t = log_p.shape[1]
    return _mean_pairs(t, lambda: pairwise_kl(log_p, 1, detach_teacher=detach_teacher).mean(1).sum(), log_p)


def intra_partial(scores: Tensor, psi: HardSet, *, detach_teacher: bool = False) -> Tensor:
    """IntraCL over hard sets, eq. 13's partial part. Ψ ``[K, T, B, S]``: own; ``[1, 1, B, S]``: one per image."""
    k, t = scores.shape[:2]
    if psi.index.shape[1] == 1:
        shared = psi.each(lambda x: x.expand(k, t, *x.shape[2:]))
        log_p = F.log_softmax(gather(scores, shared), dim=-1)
        return intra(log_p, detach_teacher=detach_teacher)
    return _mean_pairs(
        t, lambda: pairwise_kl_own_support(scores, psi, 1, detach_teacher=detach_teacher).mean(1).sum(), scores
    )


def _mean_pairs(n: int, total: Callable[[], Tensor], like: Tensor) -> Tensor:
    # The paper divides the sum over ordered pairs by the number of unordered ones.
    return like.new_zeros(()) if n == 1 else total() * (2 / (n * (n - 1)))
