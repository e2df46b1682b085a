"""Options of RIDE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.reweighting import ReweightingOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class RIDEOptions(ReweightingOptions):
    """RIDE, stage 1 (Wang et al., ICLR 2021): experts on a shared stem, each with LDAM-DRW, pushed apart.

    The paper's network is ``model: {shared: stage1, branch_width: 0.75, classifier: cosine, cosine_scale: 30}``.
    """

    wants: ClassVar[dict[str, Any]] = {
        "model.experts": 3,
        "model.shared": "stage1",
        "model.classifier": "cosine",
        "model.cosine_scale": 30.0,
    }
    name: Literal["ride"] = "ride"
    loss: Literal["ldam", "bsce", "ce"] = Field("ldam", description="of each expert; bsce in RIDE-DiVE's teacher")
    max_margin: float = Field(0.5, gt=0, description="of ldam")
    diversity: float = Field(0.2, description="λ of the diversity term; 0.45 on CIFAR-100-LT in the authors' script")
    temperature: Literal["class", "none"] = Field(
        "class", description="class: the diversity term is softer for small classes, once weights are on; none: τ = 1"
    )
    formulation: Literal["paper", "official"] = Field(
        "paper",
        description="paper: pairs of experts; official: the detached mean of all against each, with gradient factor τ²",
    )
    reweight: Literal["none", "effective", "inverse"] = Field(
        "effective", description="weights by class, of ldam and ce"
    )
    reweight_from: float = Field(0.8, ge=0, lt=1, description="weights are 1 before this fraction of the epochs")

    def check(self, trial: TrialConfig) -> None:
        """At least two experts; raises ``ValueError``."""
        if trial.model.experts < 2:
            raise ValueError(f"{self.name} needs experts that differ: set model.experts >= 2")
