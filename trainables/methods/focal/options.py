"""Options of the focal loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainables.methods.reweighting import ReweightingOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class FocalOptions(ReweightingOptions):
    """Focal loss (Lin et al., ICCV 2017). Three losses go by that name in published code; they are never to be compared."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, description="γ; 1 in LDAM-DRW's CIFAR script")
    form: Literal["softmax", "softmax_weight_inside", "sigmoid"] = Field(
        "softmax",
        description="softmax_weight_inside: LDAM-DRW's code, p_y^w in place of p_y; sigmoid: a sum over classes",
    )

    def check(self, trial: TrialConfig) -> None:
        """A weight inside needs weights; raises ``ValueError``."""
        if self.form == "softmax_weight_inside" and self.reweight == "none":
            raise ValueError("method.form = 'softmax_weight_inside' is `softmax` without weights; set method.reweight")
