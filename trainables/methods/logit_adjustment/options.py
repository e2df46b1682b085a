"""Options of logit adjustment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.options import MethodOptions


class LogitAdjustmentOptions(MethodOptions):
    """Logit-adjusted loss (Menon et al., ICLR 2021, eq. 10); with τ = 1 it is balanced softmax cross-entropy."""

    name: Literal["logit_adjustment"] = "logit_adjustment"
    tau: float = Field(1.0, ge=0, description="τ: how much of the log-prior is added to the logits in training")
