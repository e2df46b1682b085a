"""Options of NCL++ (Tan et al., Pattern Recognition 147, 2024)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class NCLppOptions(MethodOptions):
    """The terms of ``L = L_bil + λ1·L_intra + λ2·L_inter`` (eq. 14) and what the text leaves open.

    The number of experts K is ``model.experts``, the number of copies T is ``augmentation.copies``.
    """

    wants: ClassVar[dict[str, Any]] = {"model.experts": 2, "augmentation.copies": 2}
    name: Literal["ncl_pp"] = "ncl_pp"
    inter: bool = Field(True, description="InterCL, eq. 4 and 11; zero when K = 1")
    intra: bool = Field(True, description="IntraCL, eq. 5, 6; zero when T = 1")
    nfl: bool = Field(True, description="NFL: adds the partial parts over the hard categories, eq. 9-13")
    beta: float = Field(
        0.3, ge=0, le=1, description="β: hard categories as a fraction of all classes; 0 switches NFL off"
    )
    lambda_intra: float = Field(0.6, ge=0, description="λ1, the weight of IntraCL when `weights` is fixed")
    lambda_inter: float = Field(0.6, ge=0, description="λ2, the weight of InterCL when `weights` is fixed")
    weights: Literal["fixed", "learnable"] = Field("fixed", description="learnable: (λ1, λ2) = softmax(w), Table 6")
    hard_set: Literal["own", "shared"] = Field(
        "own", description="own: each (expert, copy) mines its Ψ; shared: expert 0's"
    )
    hard_select: Literal["top", "random"] = Field("top", description="top: HCM; random: the control of Fig. 6b")
    balanced_distillation: bool = Field(True, description="false: plain softmax inside the KL terms, Fig. 12a")
    detach_teacher: bool = Field(False, description="true: no gradient through the first argument of every KL")
    formulation: Literal["paper", "official"] = Field("paper", description="official: what the released code computes")

    def check(self, trial: TrialConfig) -> None:
        """Rules between these options and the rest of the configuration; raises ``ValueError``."""
        if self.formulation == "official":
            fixed = {"hard_set": "own", "hard_select": "top", "balanced_distillation": True, "detach_teacher": False}
            for key, value in fixed.items():
                if getattr(self, key) != value:
                    raise ValueError(
                        f"method.{key} = {getattr(self, key)!r} has no effect under `formulation: official`, which fixes it; "
                        f"leave method.{key} out or use `formulation: paper`"
                    )
            if trial.augmentation.mix != "none":
                raise ValueError(
                    f"augmentation.mix = {trial.augmentation.mix!r} is not defined for `formulation: official`; "
                    "use `formulation: paper`"
                )
