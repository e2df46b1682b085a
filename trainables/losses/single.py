"""Losses of single samples. Logits ``z`` are ``[..., C]``, labels int64 ``[...]``; what comes back is ``[...]``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(z: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-Σ_j y_j log softmax(z)_j`` with ``y`` = (1 - ε) one-hot + ε/C (Szegedy et al., CVPR 2016, eq. 4)."""
    log_p = F.log_softmax(z, dim=-1)
    loss = -_pick(log_p, labels)
    return loss if not smoothing else (1 - smoothing) * loss - smoothing * log_p.mean(-1)


def focal(z: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """``-(1 - p_y)^γ log p_y`` with p of the softmax (Lin et al., ICCV 2017, eq. 4)."""
    return focal_of(cross_entropy(z, labels), gamma)


def focal_of(loss: Tensor, gamma: float) -> Tensor:
    """``(1 - e^{-l})^γ · l``: with l = w·CE it is what LDAM-DRW's code computes, the class weight inside of p."""
    # expm1 keeps the difference where p is close to 1; at l = 0 a power below 1 would have an infinite gradient.
    return (-torch.expm1(-loss)).clamp_min(torch.finfo(loss.dtype).tiny) ** gamma * loss


def sigmoid(z: Tensor, labels: Tensor, gamma: float = 0.0) -> Tensor:
    """``Σ_j (1 - p_j)^γ·BCE_j``, p_j the probability of the right answer of class j's own sigmoid; γ = 0: plain BCE."""
    signed = torch.where(F.one_hot(labels, z.shape[-1]).bool(), z, -z)
    loss = F.softplus(-signed)  # -log of the probability of the right answer
    if gamma:
        loss = loss * (gamma * F.logsigmoid(-signed)).exp()
    return loss.sum(-1)


def softmax_binary(z: Tensor, labels: Tensor) -> Tensor:
    """``-(log p_y + Σ_{j≠y} log(1 - p_j))/C`` with p of the softmax, as the "softmax" of a much copied class-balanced loss."""
    log_p = F.log_softmax(z, dim=-1)
    # log(1 - p_j) = logsumexp of the others: the clamp keeps the gradient finite where p_j is 1 in this precision.
    log_rest = torch.log1p(-log_p.exp().clamp_max(1 - torch.finfo(z.dtype).eps))
    own = F.one_hot(labels, z.shape[-1]).bool()
    return -torch.where(own, log_p, log_rest).mean(-1)


def margin(z: Tensor, labels: Tensor, margins: Tensor) -> Tensor:
    """LDAM: cross-entropy of ``z`` with ``margins[y]`` (``[C]``) taken off the logit of the label."""
    target = F.one_hot(labels, z.shape[-1]).to(z.dtype)
    return cross_entropy(z - target * margins, labels)


def softmax_equalization(z: Tensor, labels: Tensor, ignored: Tensor) -> Tensor:
    """``-log(e^{z_y} / Σ_k w_k e^{z_k})``, ``w_k`` = 0 where ``ignored`` (bool ``[..., C]``) and k is not the label, else 1."""
    keep = ~ignored | F.one_hot(labels, z.shape[-1]).bool()
    return torch.logsumexp(z.masked_fill(~keep, -math.inf), dim=-1) - _pick(z, labels)


def _pick(values: Tensor, labels: Tensor) -> Tensor:
    return values.gather(-1, labels.expand(values.shape[:-1]).unsqueeze(-1)).squeeze(-1)
