"""Contrastive losses of one expert. Directions are normalised.

Legend: ``N`` anchors, ``M`` others they are contrasted with, ``P`` dimensions, ``C`` classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """MoCo (He et al., CVPR 2020, eq. 1): ``-log e^{q·k/τ} / (e^{q·k/τ} + Σ_j e^{q·queue_j/τ})``, mean over N.

    ``query`` and ``key`` ``[N, P]``, ``queue`` ``[Q, P]``.
    """
    positive = (query * key).sum(-1, keepdim=True)
    scores = torch.cat([positive, query @ queue.T], dim=1) / temperature
    return -F.log_softmax(scores, dim=1)[:, 0].mean()


def parametric(
    logits: Tensor,
    labels: Tensor,
    scores: Tensor,
    others: Tensor,
    itself: Tensor,
    alpha: float,
    beta: float,
) -> Tensor:
    """PaCo (Cui et al., ICCV 2021, eq. 3), each anchor's loss ``[N]``.

    One softmax over C class scores and M samples, without the anchor itself; the class of the label counts β, each sample of it
    α, divided by the sum of these weights.

    Args:
        logits: ``z + log π``, ``[N, C]``.
        labels: int64 ``[N]``.
        scores: ``f·f_j/τ``, ``[N, M]``.
        others: labels of the M samples, int64 ``[M]``; -1: of no class.
        itself: bool ``[N, M]``, where the sample is the anchor.
        alpha: weight of a sample.
        beta: weight of the class.
    """
    log_p = F.log_softmax(torch.cat([logits, scores.masked_fill(itself, -math.inf)], 1), dim=1)
    same = (labels[:, None] == others) & ~itself
    classes = logits.shape[1]
    of_class = log_p[:, :classes].gather(1, labels[:, None])[:, 0]
    of_samples = log_p[:, classes:].masked_fill(~same, 0.0).sum(1)
    return -(beta * of_class + alpha * of_samples) / (beta + alpha * same.sum(1).to(log_p.dtype))


def balanced(scores: Tensor, labels: Tensor, others: Tensor, itself: Tensor, prototype_scores: Tensor) -> Tensor:
    """BCL (Zhu et al., CVPR 2022, eq. 5), each anchor's loss ``[N]``.

    Positives are the other samples of the anchor's class and its prototype; every class's share of the denominator is averaged
    over its samples and its prototype.

    Args:
        scores: ``z_i·z_j/τ``, ``[N, M]``.
        labels: int64 ``[N]``.
        others: labels of the M samples, int64 ``[M]``.
        itself: bool ``[N, M]``, where the sample is the anchor.
        prototype_scores: ``z_i·c_j/τ``, ``[N, C]``.
    """
    classes = prototype_scores.shape[1]
    every = torch.cat([scores.masked_fill(itself, -math.inf), prototype_scores], 1)
    label_of = torch.cat([others, torch.arange(classes, device=others.device)])
    there = torch.cat([~itself, itself.new_ones(len(labels), classes)], 1)  # [N, M + C]
    count = torch.zeros(len(labels), classes, dtype=every.dtype, device=every.device)
    count.index_add_(1, label_of, there.to(every.dtype))
    log_denominator = torch.logsumexp(every - count.log()[:, label_of], dim=1)
    same = (labels[:, None] == label_of) & there
    log_p = every.masked_fill(~there, 0.0) - log_denominator[:, None]
    return -(log_p * same).sum(1) / same.sum(1)
