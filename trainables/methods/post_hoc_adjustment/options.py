"""Options of logit adjustment after training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.second_stage import ClosedFormOptions


class PostHocAdjustmentOptions(ClosedFormOptions):
    """Post-hoc logit adjustment (Menon et al., ICLR 2021, eq. 9) of a finished CE trial, which is not trained again."""

    name: Literal["post_hoc_adjustment"] = "post_hoc_adjustment"
    tau: float = Field(1.0, ge=0, description="τ: how much of the log-prior is taken off the logits")
