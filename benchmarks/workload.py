"""The training step that is measured: ResNet-32, K = 2, T = 4, 64 images of 32×32, CIFAR100-LT with imbalance factor 100."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainables import optim, trained
from trainables.config import TrialConfig
from trainables.data.longtail import profile_counts
from trainables.methods.base import Batch
from trainables.precision import dtype_of
from trainables.training import StepModule

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


def batch_of(labels: Tensor, seed: int = 0, **what: Tensor) -> Batch:
    """A batch of the first epoch with these ``inputs``, or these ``logits``."""
    empty = torch.empty(0)
    known = {"inputs": empty, "features": empty, "logits": empty, **what}
    image = torch.arange(len(labels))
    return Batch(**known, labels=labels, image=image, occurrence=torch.zeros_like(image), epoch=0, seed=seed)


class OurTrainer:
    """What ``trainables.training`` does between augmentation and the next batch, with its own parts."""

    def __init__(self, precision: str, *, compiled: bool = False) -> None:
        self.trial = config(precision)
        self.device = torch.device("cpu")
        self.dtype = dtype_of(self.trial)
        counts = class_counts(self.trial)
        self.network, self.method = trained.assemble(self.trial, counts)
        self.network.to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.to(self.device, self.dtype)
        self.module = StepModule(self.network, self.method)
        if compiled:
            self.module.compile()
        self.optimizer = optim.build(self.trial.optimizer, self.method.parameter_groups(self.network))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        inputs = images.contiguous(memory_format=torch.channels_last)
        losses: dict[str, Tensor] = self.module(batch_of(labels, self.trial.seed, inputs=inputs))
        return losses["loss"]

    def step(self, images: Tensor, labels: Tensor) -> float:
        self.network.train()
        value = self.loss(images, labels)
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(value.detach())
