"""Options of cross-entropy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.reweighting import ReweightingOptions


class CEOptions(ReweightingOptions):
    """Cross-entropy on the plain softmax, eq. 1, perhaps with label smoothing or weights by class."""

    name: Literal["ce"] = "ce"
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="ε: the target is (1-ε)·one-hot + ε/C")
