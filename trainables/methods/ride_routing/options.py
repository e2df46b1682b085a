"""Options of RIDE's routing stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.second_stage import SecondStageOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class RIDERoutingOptions(SecondStageOptions):
    """RIDE, stage 2 (section 3.2): routers learn when the next expert is worth its cost; the experts are frozen."""

    wants: ClassVar[dict[str, Any]] = {
        "model.experts": 3,
        "model.shared": "stage1",
        "model.classifier": "cosine",
        "model.cosine_scale": 30.0,
    }
    name: Literal["ride_routing"] = "ride_routing"
    epochs: int = Field(5, ge=1, description="of the second stage")
    lr: float = Field(0.01, gt=0, description="its peak learning rate, which a cosine takes to 0")
    positive_weight: float = Field(100.0, gt=0, description="weight of images that a further expert sets right")
    units: int = Field(16, ge=1, description="of each router's view of the features")
    top: int = Field(30, ge=1, description="logits that a router sees, largest first")

    def check(self, trial: TrialConfig) -> None:
        """Something to route between; raises ``ValueError``."""
        if trial.model.experts < 2:
            raise ValueError("ride_routing chooses among the experts of a trained RIDE: set model.experts >= 2")

    def first_method(self) -> dict[str, Any]:
        """RIDE; its options go into ``stage1``."""
        return {"method": {"name": "ride"}}
