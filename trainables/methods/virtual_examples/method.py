"""The virtual-example distribution.

Legend: ``N`` training images of a batch, ``C`` classes, ``K`` experts.
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
from trainables.models.network import Network, Outputs

TEMPERATURES = tuple(range(1, 11))


class VirtualExamples(Method[VirtualExamplesOptions]):
    """``v_c(τ, p) = Σ_i softmax(p·z_i/τ)_c`` over the training set; group values are means over the group's classes."""

    rule: Tensor
    grid: Tensor
    distribution: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Kept: the rule's τ and p, the distributions it chose from ``[2, 10, C]`` (power off, on), the one asked for."""
        super().__init__(config, class_counts)
        classes = len(class_counts)
        self.register_buffer("rule", torch.ones(2, dtype=self.dtype))
        self.register_buffer("grid", torch.zeros(2, len(TEMPERATURES), classes, dtype=self.dtype))
        self.register_buffer("distribution", torch.zeros(classes, dtype=self.dtype))

    def forward(self, network: Network, inputs: Tensor) -> Outputs:
        """The teacher's logits, as it predicts them, and its features."""
        teacher = self.teachers[0]
        outputs = teacher.method.forward(teacher.network, inputs)
        return Outputs(teacher.method.predict(outputs).logits, outputs.features)

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Add the soft labels up and apply the rule."""
        o = self.options
        for images in training:
            z = self.forward(network, images.inputs).logits.mean(0).double()  # [N, C]
            for row, power in enumerate((1.0, o.rule_power)):
                for column, tau in enumerate(TEMPERATURES):
                    self.grid[row, column] += distillation.virtual_examples(z, tau, power).exp().sum(0)
            if o.target == "teacher":
                target = distillation.virtual_examples(z, o.temperature, o.power)
            else:
                plain = distillation.virtual_examples(z, o.temperature, 1.0)
                target = distillation.label_factored(plain, images.labels, o.alpha, o.power)
            self.distribution += target.exp().sum(0)
        self.rule.copy_(torch.tensor(propose(self.grid, self.class_counts, o.rule_power)))
        return {}

    def state_metrics(self) -> dict[str, float]:
        """Proposed τ and p, and virtual examples a class by group: as asked for, and for every τ and power of the rule."""
        found = {"temperature": float(self.rule[0]), "power": float(self.rule[1])}
        for group, mask in shot_groups(self.class_counts).items():
            found[f"virtual_{group}"] = float(self.distribution[mask].mean())
            for row, name in enumerate(("", "_power")):
                for column, tau in enumerate(TEMPERATURES):
                    found[f"virtual_tau{tau}{name}_{group}"] = float(self.grid[row, column][mask].mean())
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
