"""Labels of a batch as targets, with mixup or without."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.methods.base import Batch


def targets_and_weight(batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Targets int64 ``[K, T, B, M]`` (expanded, not copied) and their weights ``[B, M]``; M = 1 and None without mixup."""
    rows = batch.logits.shape[:-1]
    if batch.partner_labels is None or batch.coefficient is None:
        return batch.labels.expand(rows).unsqueeze(-1), None
    targets = torch.stack([batch.labels, batch.partner_labels], dim=-1)
    weight = torch.stack([batch.coefficient, 1 - batch.coefficient], dim=-1).to(batch.logits.dtype)
    return targets.expand(*rows, 2), weight
