"""Accuracy under shifted label distributions: the test set made long-tailed, in the training set's order or against it.

The protocol of LADE (Hong et al., CVPR 2021, section 4.3), which Table 8 of DiVE follows. Of the class with rank r = 0, …, C-1
by training images, the first ``n_r = int(n · f^(-r/(C-1)))`` test images stay (forward), or ``int(n · f^(-(C-1-r)/(C-1)))``
(backward), n being the test images of the smallest class of the test set. Accuracies are means over the images that stay.

Prior compensation predicts ``argmax_c z_c + log p_c`` with the shares p of the shifted set. That is right for logits that hold
no prior (BSCE, DiVE, post-hoc logit adjustment); those of CE hold the training set's: `post_hoc_adjustment` takes it off.

Legend: ``K`` experts, ``N`` images, ``C`` classes, ``S`` distributions.
"""

from __future__ import annotations

import torch
from torch import Tensor

FACTORS = (50, 25, 10, 5, 2)
DISTRIBUTIONS = (
    *(f"forward {factor}" for factor in FACTORS), "uniform", *(f"backward {factor}" for factor in reversed(FACTORS))
)  # fmt: skip


def sizes(labels: Tensor, class_counts: Tensor) -> Tensor:
    """How many of the first test images of every class stay: int64 ``[S, C]``, in the order of ``DISTRIBUTIONS``."""
    classes = len(class_counts)
    most = int(torch.bincount(labels, minlength=classes).min())
    rank = torch.empty(classes, dtype=torch.float64)
    rank[torch.argsort(class_counts.cpu(), descending=True, stable=True)] = torch.arange(classes, dtype=torch.float64)
    ahead, behind = rank / max(classes - 1, 1), (classes - 1 - rank) / max(classes - 1, 1)
    forward = [most * float(factor) ** -ahead for factor in FACTORS]
    backward = [most * float(factor) ** -behind for factor in reversed(FACTORS)]
    # 1e-9: 20 · 0.1^1 is 2, not 1.9999999999999996
    return torch.stack([*forward, torch.full_like(ahead, most), *backward]).add(1e-9).long()


def judge(logits: Tensor, labels: Tensor, stay: Tensor) -> dict[str, Tensor]:
    """Which images are right, of raw logits ``[K, N, C]``; any part of the images can be judged by itself.

    ``stay`` is what ``sizes`` says of all test images. ``plain`` bool ``[K + 1, N]`` (the last is the ensemble) and
    ``compensated`` bool ``[S, K + 1, N]``, false for a distribution that leaves a class without images.
    """
    labels, stay = labels.to(logits.device), stay.to(logits.device)
    z = torch.cat([logits, logits.mean(0, keepdim=True)])
    compensated = [
        (z + (keep / keep.sum()).log().to(z.dtype)).argmax(-1) == labels
        if keep.min()
        else torch.zeros(z.shape[:-1], dtype=torch.bool, device=z.device)
        for keep in stay
    ]
    return {"plain": z.argmax(-1) == labels, "compensated": torch.stack(compensated)}


def accuracies(judged: dict[str, Tensor], labels: Tensor, stay: Tensor) -> dict[str, Tensor]:
    """Of what ``judge`` found of all test images: float64 ``[2, S]``, plain and compensated.

    For ``single`` (mean over experts) and ``ensemble``; NaN for a distribution that leaves a class without images, since a
    compensated prediction would know which: a factor f takes f test images of every class.
    """
    plain, compensated = judged["plain"], judged["compensated"]
    labels, stay = labels.to(plain.device), stay.to(plain.device)
    place = torch.empty_like(labels)  # of an image among those of its class, in test order
    order = torch.argsort(labels, stable=True)
    ordered = labels[order]
    starts = torch.bincount(ordered, minlength=stay.shape[1]).cumsum(0).roll(1)
    starts[0] = 0
    place[order] = torch.arange(len(labels), device=labels.device) - starts[ordered]
    found, nothing = {}, torch.tensor(torch.nan, dtype=torch.float64, device=labels.device)
    for name, of in (("single", slice(0, -1)), ("ensemble", slice(-1, None))):
        rows: list[list[Tensor]] = [[], []]
        for keep, right in zip(stay, compensated, strict=True):
            kept = place < keep[labels]
            for row, hits in zip(rows, (plain, right), strict=True):
                row.append(hits[of, kept].double().mean() if keep.min() else nothing)
        found[name] = torch.stack([torch.stack(row) for row in rows]).cpu()
    return found
