"""Options of DiVE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions, Requirement, derive

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class DiVEOptions(MethodOptions):
    """DiVE (He et al., ICCV 2021): a teacher's soft labels, flattened, are virtual examples of every class.

    The teacher is BSCE with this trial's recipe and seed, one expert and one copy; ``teacher`` overrides it: with
    ``{data.imbalance.factor: 1}`` it is Fig. 1's FULL, with ``{method: {name: ride, loss: bsce}, model.experts: 6}``
    RIDE-DiVE's. The default α is that of published reproductions: the paper's symbol is lost in the text at hand, where 0.75
    stands for RIDE-DiVE.
    """

    name: Literal["dive"] = "dive"
    temperature: float | None = Field(
        3.0, gt=0, description="τ; none: the rule of thumb of section 3.4 chooses τ and p"
    )
    power: float = Field(0.5, gt=0, le=1, description="p of the power normalisation of the teacher; 1: off")
    alpha: float = Field(0.5, ge=0, le=1, description="α: the weight of the distillation term; 1-α that of BSCE")
    bsce: bool = Field(True, description="false: without the BSCE term, rows #2-#6 of Table 6")
    target: Literal["teacher", "label_factored"] = Field(
        "teacher", description="label_factored: eq. 6, the teacher's mixed with the label; rows #2, #5, #6 of Table 6"
    )
    teacher: dict[str, Any] = Field({}, description="overrides of the teacher's trial, dotted or nested")

    def check(self, trial: TrialConfig) -> None:
        """What cannot go together; raises ``ValueError``."""
        if self.target == "label_factored" and trial.augmentation.mix != "none":
            raise ValueError(
                f"method.target = 'label_factored' is not defined for augmentation.mix = {trial.augmentation.mix!r}; "
                "use `target: teacher`"
            )

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """The teacher; without a temperature also what the rule of thumb says of it."""
        over = {"method": {"name": "bsce"}, "model": {"experts": 1}, "augmentation": {"copies": 1, "copy_policies": []}}
        teacher = derive(trial, "method.teacher", over, self.teacher)
        found = [Requirement("teacher", teacher)]
        if self.temperature is None:  # over the student's own training images, whatever the teacher was trained on
            rule = {"method": {"name": "virtual_examples", "teacher": self.teacher}}
            found.append(Requirement("selection", derive(trial, "method.teacher", over, rule)))
        return found
