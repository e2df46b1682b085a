"""SGD and the learning rate of every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from trainables.config import OptimizerConfig, ScheduleConfig


def learning_rate(optimizer: OptimizerConfig, schedule: ScheduleConfig, epochs: int, epoch: int) -> float:
    """The learning rate of ``epoch`` (from 0).

    Warm-up over the first W epochs: ``lr · (s + (1 - s)·(epoch + 1)/W)`` with s = ``warmup_start``. Cosine runs from lr to
    ``min_lr`` over the epochs after it; milestones count all epochs.
    """
    warmup = schedule.warmup_epochs
    if epoch < warmup:
        return optimizer.lr * (schedule.warmup_start + (1 - schedule.warmup_start) * (epoch + 1) / warmup)
    if schedule.name == "multistep":
        return optimizer.lr * schedule.gamma ** sum(epoch >= m for m in schedule.milestones)
    if schedule.name == "cosine":
        done = (epoch - warmup) / (epochs - warmup)
        return schedule.min_lr + (optimizer.lr - schedule.min_lr) * (1 + math.cos(math.pi * done)) / 2
    return optimizer.lr


def build(config: OptimizerConfig, groups: Iterable[Mapping[str, Any]]) -> torch.optim.SGD:
    """SGD over groups of ``params`` with their ``weight_decay`` and, where given, ``lr_factor``; frozen ones are left out."""
    kept = []
    for group in groups:
        params = [p for p in group["params"] if p.requires_grad]
        if params:
            kept.append({"lr_factor": 1.0, **group, "params": params})
    # A trial that trains nothing has an optimiser of nothing.
    kept = kept or [{"params": [torch.nn.Parameter(torch.zeros(()))], "lr_factor": 1.0}]
    return torch.optim.SGD(kept, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Every group by its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def check_state(optimizer: torch.optim.Optimizer) -> None:
    """Raises ``ValueError`` if the state that was loaded is not that of these parameters: loading does not look at shapes."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape != parameter.shape:
                raise ValueError(f"{name} is {list(value.shape)} instead of {list(parameter.shape)}")
