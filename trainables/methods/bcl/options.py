"""Options of BCL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class BCLOptions(MethodOptions):
    """BCL (Zhu et al., CVPR 2022): logit compensation on one view, balanced contrast between two others.

    Wants three views: ``augmentation: {copies: 3}``, the first for the classifier.
    """

    wants: ClassVar[dict[str, Any]] = {"augmentation.copies": 3}
    name: Literal["bcl"] = "bcl"
    contrastive_weight: float = Field(0.35, ge=0, description="μ, of the contrastive term")
    temperature: float = Field(0.1, gt=0, description="of the contrastive term")
    dimension: int = Field(128, ge=1, description="of the projections")

    def check(self, trial: TrialConfig) -> None:
        """Three views; raises ``ValueError``."""
        if trial.augmentation.copies != 3 or trial.augmentation.mix != "none" or trial.model.classifier != "linear":
            raise ValueError(
                f"bcl has three views of an image that are not mixed, and a linear classifier: set augmentation.copies: 3 (now "
                f"{trial.augmentation.copies}), augmentation.mix: none, model.classifier: linear"
            )
