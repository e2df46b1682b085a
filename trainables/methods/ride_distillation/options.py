"""Options of RIDE's distillation variant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import Requirement, derive
from trainables.methods.ride.options import RIDEOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class RIDEDistillationOptions(RIDEOptions):
    """RIDE whose experts learn from a RIDE with more experts that was trained before (section 3.3)."""

    wants: ClassVar[dict[str, Any]] = {
        "model.experts": 3,
        "model.shared": "stage1",
        "model.classifier": "cosine",
        "model.cosine_scale": 30.0,
    }
    name: Literal["ride_distillation"] = "ride_distillation"  # type: ignore[assignment]
    teacher_experts: int = Field(6, ge=2, le=64, description="experts of the teacher")
    teacher: dict[str, Any] = Field({}, description="overrides of the teacher's trial, dotted or nested")
    weight: float = Field(1.0, ge=0, description="of the distillation term")
    distillation_temperature: float = Field(
        1.5, gt=0, description="τ of both distributions; the term is multiplied by τ²"
    )

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """The teacher, of the same seed: this trial's recipe, RIDE with its options."""
        own = {key: getattr(self, key) for key in RIDEOptions.model_fields if key != "name"}
        over = {"method": {"name": "ride", **own}, "model": {"experts": self.teacher_experts}}
        return [Requirement("teacher", derive(trial, "method.teacher", over, self.teacher))]
