"""Options of weight balancing."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainables.catalogue import OneOf
from trainables.methods.second_stage import SecondStageOptions
from trainables.sampling import RULES


class WeightBalancingOptions(SecondStageOptions):
    """Weight balancing (Alshammari et al., CVPR 2022): strong weight decay in stage 1, then a classifier with MaxNorm.

    Stage 2 goes on with stage 1's classifier: class-balanced loss, weight decay, and rows no longer than a bound.
    """

    recipe: ClassVar[int] = 2  # 2: the bound lies within the lengths of stage 1's rows, as in the authors' code
    name: Literal["weight_balancing"] = "weight_balancing"
    stage1_weight_decay: float = Field(5e-3, ge=0, description="weight decay of stage 1, on all weights")
    beta: float = Field(0.9999, ge=0, lt=1, description="β of the class-balanced loss of stage 2")
    weight_decay: float = Field(0.1, ge=0, description="of stage 2, on the classifier")
    max_norm: float = Field(
        0.1, ge=0, le=1, description="the longest that a row of the classifier may be: from the shortest (0) to the longest "
        "(1) of stage 1's rows"
    )  # fmt: skip
    project: Literal["step", "epoch"] = Field(
        "step", description="when rows are shortened: projected gradient descent; epoch: as the authors' code"
    )
    loss: Literal["cross_entropy", "binary"] = Field(
        "cross_entropy", description="binary: the binary cross-entropy of every class's softmax probability, a mean over "
        "classes, as the authors' code"
    )  # fmt: skip
    lr: float = Field(0.01, gt=0, description="of stage 2")
    sampling: Annotated[str, OneOf(RULES)] = Field("instance", description="as `sampling.name`")

    def first_method(self) -> dict[str, Any]:
        """CE with strong weight decay."""
        return {"method": {"name": "ce"}, "optimizer": {"weight_decay": self.stage1_weight_decay}}
