"""Shared by the tests of losses and methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.methods import method_class
from trainables.methods.base import Batch


def make_method(z: Tensor, counts: list[int], *, precision: str = "fp64", name: str = "ncl_pp", **options: Any) -> Any:
    """A method for logits of this shape."""
    config = TrialConfig.model_validate(
        {
            "model": {"experts": z.shape[0]},
            "augmentation": {"copies": z.shape[1]},
            "method": {"name": name, **options},
            "training": {"precision": precision},
        }
    )
    return method_class(name)(config, torch.tensor(counts)).to(z.dtype)


def make_batch(
    z: Tensor,
    labels: list[int],
    partner: list[int] | None = None,
    coefficient: list[float] | None = None,
    epoch: int = 0,
) -> Batch:
    """A batch of logits ``[K, T, B, C]``."""
    return Batch(
        inputs=torch.empty(0),
        features=torch.empty(0),
        occurrence=torch.zeros(len(labels), dtype=torch.int64),
        logits=z,
        labels=torch.tensor(labels),
        image=torch.arange(len(labels)),
        epoch=epoch,
        seed=0,
        partner_labels=None if partner is None else torch.tensor(partner),
        coefficient=None if coefficient is None else torch.tensor(coefficient, dtype=z.dtype),
        teacher_logits=z.detach().flip(-1),  # looked at by methods with teachers only
    )
