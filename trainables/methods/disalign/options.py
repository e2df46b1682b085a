"""Options of DisAlign."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainables.catalogue import OneOf
from trainables.methods.second_stage import SecondStageOptions
from trainables.sampling import RULES


class DisAlignOptions(SecondStageOptions):
    """DisAlign (Zhang et al., CVPR 2021): calibrates a frozen network's logits towards a balanced distribution."""

    name: Literal["disalign"] = "disalign"
    rho: float = Field(1.0, ge=0, description="ρ: class weights ∝ (1/π_j)^ρ of the generalised re-weighting, eq. 10")
    sampling: Annotated[str, OneOf(RULES)] = Field(
        "instance", description="as `sampling.name`; the weights do the balancing"
    )
