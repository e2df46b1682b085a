"""SGD and the learning rate of every epoch."""

from __future__ import annotations

import math

import torch
from torch import nn

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


def build(config: OptimizerConfig, model: nn.Module, method: nn.Module) -> torch.optim.SGD:
    """SGD over all parameters of the experts with weight decay, and over the method's own without."""
    groups = [{"params": list(model.parameters()), "weight_decay": config.weight_decay}]
    own = list(method.parameters())
    if own:
        groups.append({"params": own, "weight_decay": 0.0})
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
