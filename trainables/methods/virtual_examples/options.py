"""Options of the virtual-example distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions, Requirement, derive

if TYPE_CHECKING:
    from trainables.config import Loop, TrialConfig


class VirtualExamplesOptions(MethodOptions):
    """The virtual-example distribution of a teacher, and the τ and p that DiVE's rule of thumb (section 3.4) proposes.

    Nothing is trained: the teacher's soft labels of all training images are added up by class. It may be any method, and
    trained on other images: ``teacher: {data.imbalance.factor: 1}`` is FULL of Fig. 1. The trial predicts what its teacher
    predicts.
    """

    recipe: ClassVar[int] = 2  # 2: a teacher of any method; what is kept
    name: Literal["virtual_examples"] = "virtual_examples"
    temperature: float = Field(1.0, gt=0, description="τ of the distribution `train/virtual_<group>`")
    power: float = Field(1.0, gt=0, le=1, description="its p; 1: off")
    target: Literal["teacher", "label_factored"] = Field(
        "teacher", description="label_factored: of eq. 6, as in `dive`"
    )
    alpha: float = Field(0.5, ge=0, le=1, description="α of eq. 6")
    rule_power: float = Field(
        0.5, gt=0, le=1, description="p that the rule of thumb may choose, for every τ = 1, …, 10"
    )
    teacher: dict[str, Any] = Field(
        {}, description="overrides of the teacher's trial, dotted or nested; BSCE by default"
    )

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """The teacher."""
        return [Requirement("teacher", derive(trial, "method.teacher", {"method": {"name": "bsce"}}, self.teacher))]

    def loop(self, trial: TrialConfig) -> Loop:
        """One epoch without a gradient step."""
        return super().loop(trial)._replace(epochs=1, trains=False)
