"""Options of the softmax equalization loss."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.options import MethodOptions


class SoftmaxEQLOptions(MethodOptions):
    """Softmax equalization loss (Tan et al., CVPR 2020, eq. 9-11)."""

    name: Literal["softmax_eql"] = "softmax_eql"
    gamma: float = Field(
        0.9, ge=0, le=1, description="γ: how often a rare class is left out of a negative's denominator"
    )
    threshold: float = Field(
        0.005, ge=0, le=1, description="λ: a class is rare if it has less than this share of all images"
    )
