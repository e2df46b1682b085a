"""Options of LDAM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.reweighting import ReweightingOptions


class LDAMOptions(ReweightingOptions):
    """LDAM (Cao et al., NeurIPS 2019); with ``reweight: effective`` and ``reweight_from: 0.8`` LDAM-DRW.

    With ``model.classifier: cosine`` (30 in the authors' code, as ``model.cosine_scale``) margins are those of cosines.
    """

    wants: ClassVar[dict[str, Any]] = {"model.classifier": "cosine", "model.cosine_scale": 30.0}
    name: Literal["ldam"] = "ldam"
    max_margin: float = Field(0.5, gt=0, description="the largest margin, that of the smallest class")
