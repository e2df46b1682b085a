"""Options of the class-balanced losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.reweighting import ReweightingOptions


class ClassBalancedOptions(ReweightingOptions):
    """Class-balanced losses (Cui et al., CVPR 2019): weights by the effective number of samples."""

    name: Literal["class_balanced"] = "class_balanced"
    loss: Literal["softmax", "focal", "sigmoid", "sigmoid_focal"] = Field("softmax", description="what is weighted")
    gamma: float = Field(1.0, ge=0, description="γ of the focal losses")
    reweight: Literal["effective"] = "effective"
    reweight_mean: Literal["weights", "batch"] = Field(
        "batch", description="batch: as the authors; weights: as LDAM-DRW's, BBN's and RIDE's code"
    )
