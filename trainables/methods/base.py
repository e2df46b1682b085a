"""What the epoch loop asks of a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig


@dataclass(frozen=True)
class Batch:
    """What a method sees of one forward pass. ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes."""

    logits: Tensor  # float [K, T, B, C]
    labels: Tensor  # int64 [B]
    image: Tensor  # int64 [B], the image's number in the training set: the key of counter-based draws
    epoch: int
    seed: int
    partner_labels: Tensor | None = None  # int64 [B], with mixup
    coefficient: Tensor | None = None  # float [B], with mixup: the weight of `labels`
    teacher_logits: Tensor | None = None  # float [M, T, B, C], of a method with M teachers, on the same copies


class Method(nn.Module):
    """Turns the logits of all experts and copies into a loss.

    Subclasses may hold parameters (learnable loss weights); the loop trains them without weight decay.

    Args:
        config: the trial.
        class_counts: int64 ``[C]``, images of every class that are actually trained on, all at least 1.
    """

    log_n: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep ``log n`` as a buffer."""
        super().__init__()
        dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
        self.register_buffer("log_n", class_counts.double().log().to(dtype), persistent=False)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; ``loss`` is what is minimised, the others are its components, for the record."""
        raise NotImplementedError

    def state_metrics(self) -> dict[str, float]:
        """Scalars of the method's own state at the end of an epoch, such as learned weights."""
        return {}
