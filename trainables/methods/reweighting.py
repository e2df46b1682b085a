"""Options of methods whose samples may be weighted by class. Torch-free."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.options import MethodOptions


class ReweightingOptions(MethodOptions):
    """Weights by class, from the start or deferred (DRW: Cao et al., NeurIPS 2019, algorithm 1)."""

    reweight: Literal["none", "effective", "inverse"] = Field(
        "none", description="effective: (1-β)/(1-β^n_j); inverse: n_j^-power; both scaled to sum C"
    )
    reweight_beta: float = Field(0.9999, ge=0, lt=1, description="β of `effective`")
    reweight_power: float = Field(1.0, gt=0, le=4, description="the power of `inverse`")
    reweight_from: float = Field(
        0.0, ge=0, lt=1, description="weights are 1 before this fraction of the epochs: 0.8 in DRW"
    )
    reweight_mean: Literal["weights", "batch"] = Field(
        "weights", description="weighted losses are divided by the sum of the batch's weights, or by its size"
    )
