"""Metrics of long-tailed recognition.

Legend: ``K`` experts, ``N`` images, ``C`` classes. Logits are raw ``[K, N, C]``; accuracies and errors are fractions in
[0, 1]. "single" is one expert: the mean over experts unless a name says max (NCL++, Fig. 7); "ensemble" is the argmax of
the mean of the experts' raw logits. A mean over classes counts every class alike, also where they have different numbers of
evaluated images (balanced accuracy); classes without any are left out. KL distances are between plain softmax outputs, in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ECE_BINS = 15
GROUPS = ("many", "medium", "few")


def shot_groups(class_counts: Tensor) -> dict[str, Tensor]:
    """Bool ``[C]`` masks: many > 100, medium 20..100, few < 20 training images; groups without classes are absent."""
    masks = {
        "many": class_counts > 100,
        "medium": (class_counts >= 20) & (class_counts <= 100),
        "few": class_counts < 20,
    }
    return {name: mask for name, mask in masks.items() if bool(mask.any())}


def hits(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Bool ``[..., N]``: is the label among the k largest of ``[..., N, C]``? k is capped at C."""
    top = logits.topk(min(k, logits.shape[-1]), dim=-1).indices
    return (top == labels.unsqueeze(-1)).any(-1)


def per_class_mean(values: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of ``[..., N]`` over the images of each class: float64 ``[..., C]``, NaN for classes without images."""
    sums = values.new_zeros((*values.shape[:-1], classes), dtype=torch.float64)
    sums.index_add_(-1, labels, values.double())
    return sums / torch.bincount(labels, minlength=classes)


def confidence(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``[..., N, C]`` predictions: the largest probability ``[..., N]``, and whether it is the label's."""
    largest, predicted = F.softmax(logits.float(), dim=-1).max(-1)
    return largest, predicted == labels


def expected_calibration_error(confident: Tensor, right: Tensor, bins: int = ECE_BINS) -> float:
    """ECE (Guo et al., ICML 2017): bins of equal width over the ``confidence`` ``[N]`` of one prediction."""
    index = (confident * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64, device=confident.device)
    gap.index_add_(0, index, right.double() - confident.double())
    return float(gap.abs().sum() / len(confident))


def mean_pairwise_kl(logits: Tensor) -> Tensor:
    """``[n, N, C]`` logits to ``[N]``: mean KL over the ordered pairs of the n distributions; n >= 2."""
    n = logits.shape[0]
    log_p = F.log_softmax(logits.float(), dim=-1)
    others = log_p.sum(0, keepdim=True) - log_p
    return (log_p.exp() * ((n - 1) * log_p - others)).sum((0, -1)) / (n * (n - 1))


def judge(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What the metrics need of ``[K, N, C]`` logits, image by image: any part of the images can be judged by itself.

    ``top1`` and ``top5`` bool ``[K, N]``, ``ensemble_top1`` and ``ensemble_top5`` bool ``[N]``; ``confident`` and ``right``
    ``[K + 1, N]`` (the last is the ensemble); ``kl_experts`` ``[N]`` for K > 1.
    """
    labels = labels.to(logits.device)
    ensemble = logits.mean(0)
    confident, right = confidence(torch.cat([logits, ensemble[None]]), labels)
    found = {
        "top1": hits(logits, labels, 1),
        "top5": hits(logits, labels, 5),
        "ensemble_top1": hits(ensemble, labels, 1),
        "ensemble_top5": hits(ensemble, labels, 5),
        "confident": confident,
        "right": right,
    }
    return found | ({"kl_experts": mean_pairwise_kl(logits)} if len(logits) > 1 else {})


def evaluation_metrics(
    judged: dict[str, Tensor], labels: Tensor, class_counts: Tensor
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """All metrics of what ``judge`` found: scalars by name, and per-class arrays ``[C]`` by name.

    ``…_top1`` is a mean over images; ``…_class_mean``, the shot groups and the other summaries of class accuracies are over
    classes. A shot group without classes, and one without evaluated images, is absent.
    """
    classes, labels = len(class_counts), labels.to(judged["top1"].device)
    top1, ensemble_top1 = judged["top1"], judged["ensemble_top1"]
    experts = len(top1)
    single, top5 = top1.double().mean(-1), judged["top5"].double().mean(-1)  # [K]
    errors = [expected_calibration_error(*of) for of in zip(judged["confident"], judged["right"], strict=True)]
    scalars = {
        "single_top1": float(single.mean()),
        "single_top1_max": float(single.max()),
        "single_top5": float(top5.mean()),
        "single_top5_max": float(top5.max()),
        "ensemble_top1": float(ensemble_top1.double().mean()),
        "ensemble_top5": float(judged["ensemble_top5"].double().mean()),
        "single_ece": sum(errors[:-1]) / experts,
        "ensemble_ece": errors[-1],
    }
    if experts > 1:
        scalars |= {f"expert{k}_top1": float(single[k]) for k in range(experts)}
        scalars["kl_experts"] = float(judged["kl_experts"].mean())
        scalars["expert_right_average_wrong"] = float((top1 & ~ensemble_top1).sum()) / experts
        scalars["average_right_expert_wrong"] = float((~top1 & ensemble_top1).sum()) / experts
    by_class = {  # [K or 1, C]
        "single": per_class_mean(top1, labels, classes),
        "ensemble": per_class_mean(ensemble_top1[None], labels, classes),
    }
    seen = torch.bincount(labels, minlength=classes) > 0
    masks = shot_groups(class_counts.to(labels.device))
    for setting, accuracies in by_class.items():
        scalars |= {f"{setting}_{name}": found for name, found in class_summaries(accuracies[:, seen]).items()}
        for group, mask in masks.items():
            if bool((mask & seen).any()):
                scalars[f"{setting}_{group}"] = float(accuracies[:, mask & seen].mean())
    return scalars, {setting: accuracies.mean(0) for setting, accuracies in by_class.items()}


def class_summaries(accuracies: Tensor) -> dict[str, float]:
    """Of class accuracies ``[K, C]``: mean, harmonic and geometric mean, and the worst class, each the mean over K.

    The harmonic and the geometric mean are 0 as soon as one class is never recognised.
    """
    return {
        "class_mean": float(accuracies.mean()),
        "class_harmonic_mean": float((1 / (1 / accuracies).mean(-1)).mean()),
        "class_geometric_mean": float(accuracies.log().mean(-1).exp().mean()),
        "worst_class": float(accuracies.amin(-1).mean()),
    }
