"""Options of NCL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class NCLOptions(MethodOptions):
    """NCL (Li et al., CVPR 2022): BIL, InterCL and hard categories as in NCL++, with a contrastive term instead of IntraCL.

    Wants two views: ``augmentation: {copies: 2}``. The first is classified, the second only encoded slowly (MoCo). K = 3 in the
    paper.
    """

    wants: ClassVar[dict[str, Any]] = {"model.experts": 3, "augmentation.copies": 2}
    name: Literal["ncl"] = "ncl"
    nfl: bool = Field(True, description="adds the partial parts over the hard categories")
    beta: float = Field(0.3, ge=0, le=1, description="β: hard categories as a fraction of all classes")
    inter_weight: float = Field(0.6, ge=0, description="λ of InterCL")
    contrastive_weight: float = Field(1.0, ge=0, description="of the contrastive term")
    queue: int = Field(1024, ge=1, description="keys of earlier images to contrast with")
    dimension: int = Field(64, ge=1, description="of the projections")
    temperature: float = Field(0.2, gt=0, description="of the contrastive term")
    momentum: float = Field(0.999, ge=0, lt=1, description="of the slow encoder")
    formulation: Literal["paper", "official"] = Field(
        "paper",
        description="official: pairs over K-1, expert 0's hard set for all, a key projection that is never updated",
    )

    def check(self, trial: TrialConfig) -> None:
        """Two experts, two views; raises ``ValueError``."""
        if trial.model.experts < 2 or trial.augmentation.copies != 2:
            raise ValueError(
                f"ncl has at least two experts and two views of an image: set model.experts (now {trial.model.experts}) and "
                f"augmentation.copies: 2 (now {trial.augmentation.copies})"
            )
        if trial.augmentation.mix != "none":
            raise ValueError(f"augmentation.mix = {trial.augmentation.mix!r} is not defined for ncl")
