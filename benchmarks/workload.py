"""The training step that is measured: ResNet-32, K = 2, T = 4, 64 images of 32×32, CIFAR100-LT with imbalance factor 100."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainables import models, optim
from trainables.config import TrialConfig
from trainables.data.longtail import profile_counts
from trainables.methods import method_class
from trainables.methods.base import Batch
from trainables.precision import autocast, dtype_of

EXPERTS, COPIES, IMAGES, CLASSES, SIZE = 2, 4, 64, 100, 32
LEARNING_RATE = 0.01  # a tenth of the recipe's: one batch over and over, without warm-up
PASSES = EXPERTS * COPIES * IMAGES  # images through a network in one step


def config(precision: str, *, experts: int = EXPERTS, copies: int = COPIES) -> TrialConfig:
    """The paper's recipe for CIFAR100-LT but for the learning rate; every default of the method as it is."""
    return TrialConfig.model_validate(
        {
            "data": {"name": "cifar100", "imbalance": {"factor": 100}},
            "augmentation": {"policy": "auto", "copies": copies},
            "model": {"backbone": "resnet32", "experts": experts},
            "method": {"name": "ncl_pp"},
            "optimizer": {"lr": LEARNING_RATE, "momentum": 0.9, "nesterov": True, "weight_decay": 2e-4},
            "training": {"batch_size": IMAGES, "precision": precision},
        }
    )


def class_counts(trial: TrialConfig, classes: int = CLASSES) -> Tensor:
    """Training images of every class, 500 down to 5 for 100 classes."""
    return torch.from_numpy(profile_counts(trial.data.imbalance, np.full(classes, 500)))


def random_batch() -> tuple[Tensor, Tensor]:
    """Copies ``[T·B, 3, H, W]`` and labels ``[B]``: noise, most of it shared by an image's copies."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=generator).repeat(COPIES, 1, 1, 1)
    images = images + 0.5 * torch.randn(images.shape, generator=generator)
    return images, torch.randint(CLASSES, (IMAGES,), generator=generator)


class OurTrainer:
    """What ``trainables.training`` does between augmentation and the next batch, with its own parts."""

    def __init__(self, precision: str) -> None:
        self.trial = config(precision)
        self.device = torch.device("cpu")
        self.dtype = dtype_of(self.trial)
        counts = class_counts(self.trial)
        self.model = models.build(self.trial.model, CLASSES, self.trial.seed)
        self.model.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = method_class(self.trial.method.name)(self.trial, counts).to(self.device, self.dtype)
        self.optimizer = optim.build(self.trial.optimizer, self.model, self.method)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        inputs = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.trial, self.device):
            logits, _ = self.model(inputs)
        logits = logits.to(self.dtype).unflatten(1, (COPIES, IMAGES))
        return self.method.losses(Batch(logits, labels, torch.arange(IMAGES), 0, self.trial.seed))["loss"]

    def step(self, images: Tensor, labels: Tensor) -> float:
        self.model.train()
        value = self.loss(images, labels)
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(value.detach())
