"""The virtual-example distribution.

Legend: ``N`` training images, ``C`` classes, ``K`` experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import distillation
from trainables.methods.base import Images, Method
from trainables.methods.virtual_examples.options import VirtualExamplesOptions
from trainables.metrics import shot_groups
from trainables.models.network import Network

TEMPERATURES = tuple(range(1, 11))


class VirtualExamples(Method[VirtualExamplesOptions]):
    """``v_c(τ, p) = Σ_i softmax(p·z_i/τ)_c`` over the training set; group values are means over the group's classes."""

    rule: Tensor
    distribution: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """τ, p and the distributions ``[2, 10, C]`` (power off, on) are a part of what is kept."""
        super().__init__(config, class_counts)
        self.register_buffer("rule", torch.ones(2, dtype=self.dtype))
        self.register_buffer("distribution", torch.zeros(2, len(TEMPERATURES), len(class_counts), dtype=self.dtype))

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Add the soft labels up and apply the rule."""
        logits = torch.cat([self.forward(network, images.inputs).logits.mean(0) for images in training])  # [N, C]
        for row, power in enumerate((1.0, self.options.power)):
            for column, tau in enumerate(TEMPERATURES):
                soft = distillation.virtual_examples(logits.double(), tau, power).exp()
                self.distribution[row, column] = soft.sum(0)
        self.rule.copy_(torch.tensor(propose(self.distribution, self.class_counts, self.options.power)))
        return {}

    def state_metrics(self) -> dict[str, float]:
        """Proposed τ and p, and virtual examples a class by τ, power and group."""
        found = {"temperature": float(self.rule[0]), "power": float(self.rule[1])}
        for row, name in enumerate(("", "_power")):
            for column, tau in enumerate(TEMPERATURES):
                for group, mask in shot_groups(self.class_counts).items():
                    value = self.distribution[row, column][mask].mean()
                    found[f"virtual_tau{tau}{name}_{group}"] = float(value)
        return found


def tail_and_head(class_counts: Tensor) -> tuple[Tensor, Tensor]:
    """Bool ``[C]`` masks: few- and many-shot classes; the smallest and largest third where one of the groups is empty."""
    groups = shot_groups(class_counts)
    if "few" in groups and "many" in groups:
        return groups["few"], groups["many"]
    third = max(len(class_counts) // 3, 1)
    order = torch.argsort(class_counts, stable=True)
    tail, head = torch.zeros_like(class_counts, dtype=torch.bool), torch.zeros_like(class_counts, dtype=torch.bool)
    tail[order[:third]], head[order[-third:]] = True, True
    return tail, head


def propose(distribution: Tensor, class_counts: Tensor, power: float) -> tuple[float, float]:
    """The student's τ and p by the rule of thumb of section 3.4.

    The smallest temperature of the teacher at which the tail's classes have at least as many virtual examples as the head's, on
    average; with power normalisation the student's τ is p times the teacher's. The paper prints no threshold: crossing is
    taken. Without a crossing, the flattest.
    """
    tail, head = tail_and_head(class_counts)
    ratio = distribution[..., tail].mean(-1) / distribution[..., head].mean(-1)  # [2, 10]
    candidates = [
        (tau / p, tau, p, float(ratio[row, column]))
        for row, p in enumerate((1.0, power))
        for column, tau in enumerate(TEMPERATURES)
    ]
    crossing = [c for c in candidates if c[3] >= 1]
    # Of two with the same teacher, the student with the smaller temperature.
    teacher_tau, tau, p, _ = min(crossing) if crossing else min(candidates, key=lambda c: (-c[3], c[1]))
    return float(tau), p
