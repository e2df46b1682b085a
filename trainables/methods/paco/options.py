"""Options of PaCo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class PaCoOptions(MethodOptions):
    """PaCo (Cui et al., ICCV 2021): supervised contrast with learnable class centres, which are the classifier's rows.

    Wants two views: ``augmentation: {copies: 2}``.
    """

    wants: ClassVar[dict[str, Any]] = {"augmentation.copies": 2}
    name: Literal["paco"] = "paco"
    alpha: float = Field(0.01, ge=0, description="α: weight of a sample of the anchor's class")
    beta: float = Field(1.0, gt=0, description="β: weight of the class centre")
    temperature: float = Field(0.05, gt=0, description="of the contrast between samples")
    queue: int = Field(1024, ge=1, description="keys of earlier images to contrast with")
    dimension: int = Field(32, ge=1, description="of the projections")
    momentum: float = Field(0.999, ge=0, lt=1, description="of the slow encoder")

    def check(self, trial: TrialConfig) -> None:
        """Two views; raises ``ValueError``."""
        if trial.augmentation.copies != 2 or trial.augmentation.mix != "none":
            raise ValueError(
                f"paco has two views of an image that are not mixed: set augmentation.copies: 2 (now "
                f"{trial.augmentation.copies}) and augmentation.mix: none (now {trial.augmentation.mix})"
            )
