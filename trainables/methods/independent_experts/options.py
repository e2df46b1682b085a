"""Options of independent experts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions


class IndependentExpertsOptions(MethodOptions):
    """Independent experts and their test average (slides, Tables 1-4): K experts on all data, coupled by nothing.

    The slides print neither the loss nor what "without diversity" is. Here: experts whose average is trained as one model.
    """

    wants: ClassVar[dict[str, Any]] = {"model.experts": 3}
    name: Literal["independent_experts"] = "independent_experts"
    loss: Literal["bsce", "ce"] = Field("bsce", description="of each expert")
    diversity: bool = Field(True, description="false: one loss of the experts' mean logits, instead of one of each")
