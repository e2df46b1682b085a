"""Options of offline distillation (Fig. 12b of NCL++)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions, Requirement, derive

if TYPE_CHECKING:
    from trainables.config import TrialConfig

FIRST_TEACHER = 1_000_000  # seeds from here on are teachers': a student never shares one with its own row


class OfflineDistillationOptions(MethodOptions):
    """Teachers are trained one by one with BSCE; their mean logits are distilled into a student that trains with BSCE.

    The paper does not print the weight of the distillation term: the default is its λ.
    """

    name: Literal["offline_distillation"] = "offline_distillation"
    number: int = Field(3, ge=1, le=100, description="teachers, trained with seeds of their own")
    weight: float = Field(0.6, ge=0, description="of the distillation term")
    temperature: float = Field(1.0, gt=0, description="τ of both distributions; the term is multiplied by τ²")
    balanced: bool = Field(True, description="distil balanced probabilities (eq. 2); false: plain softmax")

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """The student's own recipe with BSCE, one expert and one copy; each student seed has teachers of its own."""
        first = FIRST_TEACHER + self.number * trial.seed
        teacher = {"method": {"name": "bsce"}, "model.experts": 1, "augmentation.copies": 1}
        return [
            Requirement("teacher", derive(trial, "its teacher", teacher, {"seed": first + i}))
            for i in range(self.number)
        ]
