"""Options of BalPoE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class BalPoEOptions(MethodOptions):
    """Balanced product of experts (Aimar et al., CVPR 2023): experts with different logit adjustments, averaged."""

    wants: ClassVar[dict[str, Any]] = {"model.experts": 3}
    name: Literal["balpoe"] = "balpoe"
    tau: tuple[float, ...] = Field(
        (0.0, 1.0, 2.0), min_length=1, description="τ of every expert; their mean should be 1"
    )

    def check(self, trial: TrialConfig) -> None:
        """A τ for each; raises ``ValueError``."""
        if trial.model.experts != len(self.tau):
            raise ValueError(
                f"method.tau has {len(self.tau)} values for model.experts = {trial.model.experts}; name one for each expert"
            )
