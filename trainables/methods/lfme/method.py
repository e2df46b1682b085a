"""LFME.

Legend: ``K`` experts of the student (usually one), ``T`` copies, ``B`` images, ``C`` classes, ``C_g`` classes of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.longtail import SHOT_BOUNDS
from trainables.losses import distillation, single
from trainables.methods.base import Batch, Images, Method
from trainables.methods.lfme.options import LFMEOptions
from trainables.models.network import Network


class LFME(Method[LFMEOptions]):
    """``v·CE + Σ_g w_g KL(softmax(z_g/τ) ‖ softmax(z/τ over g's classes))``.

    ``w_g`` = 1 while the student's accuracy on the group is below ``pace`` times the expert's, then
    ``(1 - student/expert)/(1 - pace)``, at least 0; both are measured on the training images of the epoch before. ``v`` of an
    image rises from ``v_0`` (its expert's confidence, scaled by class) to 1 with the epochs.
    """

    weight: Tensor
    seen: Tensor
    easy: Tensor
    counted = ("seen",)

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Weights of the groups, and what was counted, are a part of what is kept."""
        super().__init__(config, class_counts)
        groups = len(self.options.groups)
        for group in self.options.groups:
            low, high = SHOT_BOUNDS[group]
            classes = torch.nonzero((class_counts >= low) & (class_counts <= high))[:, 0]
            self.register_buffer(f"classes_{group}", classes, persistent=False)
        self.register_buffer("weight", torch.ones(groups, dtype=self.dtype))
        self.register_buffer("seen", torch.zeros(groups, 3, dtype=torch.float64), persistent=False)
        self.register_buffer("easy", torch.ones(0, dtype=self.dtype), persistent=False)

    @property
    def classes(self) -> list[Tensor]:
        """Of every group ``[C_g]``, on the method's device."""
        return [self.get_buffer(f"classes_{group}") for group in self.options.groups]

    def survey(self, network: Network, training: Callable[[], Iterator[Images]]) -> None:
        """``v_0`` of every training image: its expert's confidence, scaled to ``[n_min/n_group, 1]`` within its class."""
        confidence, labels = [], []
        for images in training():
            values = images.inputs.new_zeros(len(images.labels))
            for teacher, classes in zip(self.teachers, self.classes, strict=True):
                p = F.softmax(teacher.logits(images.inputs).mean(0), dim=-1)  # [N, C_g]
                rows, place = self._of_group(images.labels, classes)
                values[rows] = p[rows, place[rows]].to(values.dtype)
            confidence.append(values)
            labels.append(images.labels)
        self.easy = easiness(torch.cat(confidence), torch.cat(labels), self.class_counts, self.classes)

    @staticmethod
    def _of_group(labels: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Which of ``[N]`` labels are of the group (bool), and their number within it."""
        match = labels[:, None] == classes
        return match.any(1), match.long().argmax(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Both terms."""
        assert batch.teacher_logits is not None
        z = batch.logits
        pace = self.easy[batch.image]
        pace = pace + (1 - pace) * (batch.epoch / max(self.epochs - 1, 1))
        if self.options.curriculum == "logits":
            z = z * pace[:, None]
        own = single.cross_entropy(z, batch.labels)
        if self.options.curriculum == "loss":
            own = own * pace
        loss = own.mean((1, 2)).sum()
        taught = loss.new_zeros(())
        for g, (teacher, classes) in enumerate(zip(batch.teacher_logits, self.classes, strict=True)):
            expert = teacher.mean(0)  # [T, B, C_g]
            target = F.log_softmax(expert / self.options.temperature, dim=-1)
            student = z[..., classes]
            term = distillation.divergence(target, student, self.options.temperature) / self.options.temperature**2
            taught = taught + self.weight[g] * term
            rows, place = self._of_group(batch.labels, classes)
            right = ((batch.logits.detach().argmax(-1) == batch.labels) & rows).double().mean((0, 1)).sum()
            expert_right = ((expert.argmax(-1) == place) & rows).double().mean(0).sum()
            self.seen[g] += torch.stack([right, expert_right, rows.sum().double()])
        return {"loss": loss + taught, "own": loss.detach(), "distillation": taught.detach()}

    def begin_epoch(self, epoch: int) -> None:
        """Count anew."""
        self.seen.zero_()

    def end_epoch(self, epoch: int) -> None:
        """The weights of the next epoch."""
        student, expert, _ = self.parallel.total(self.seen).unbind(1)
        ratio = student / expert.clamp_min(1e-12)
        self.weight.copy_(((1 - ratio) / (1 - self.options.pace)).clamp(0, 1))

    def state_metrics(self) -> dict[str, float]:
        """The weight of every group."""
        return {f"pace_{group}": float(w) for group, w in zip(self.options.groups, self.weight, strict=True)}


def easiness(confidence: Tensor, labels: Tensor, class_counts: Tensor, groups: list[Tensor]) -> Tensor:
    """``v_0`` ``[N]``: confidences scaled within each class to ``[t, 1]``.

    ``t`` of a group is the mean size of the smallest group over its own, so that large groups start with their easiest images.
    """
    sizes = class_counts.to(confidence.dtype)
    means = [sizes[classes].mean() for classes in groups]
    smallest = torch.stack(means).min()
    out = torch.ones_like(confidence)
    for classes, mean in zip(groups, means, strict=True):
        t = smallest / mean
        for j in classes.tolist():
            rows = labels == j
            low, high = confidence[rows].min(), confidence[rows].max()
            # A class of one image, or of equal ones, has no hard ones.
            scaled = (confidence[rows] - low) / (high - low) if high > low else torch.ones_like(confidence[rows])
            out[rows] = t + (1 - t) * scaled
    return out
