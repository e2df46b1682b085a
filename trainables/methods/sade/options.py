"""Options of SADE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class SADEOptions(MethodOptions):
    """SADE (Zhang et al., NeurIPS 2022) without its test-time aggregation: three experts for three test distributions."""

    wants: ClassVar[dict[str, Any]] = {"model.experts": 3}
    name: Literal["sade"] = "sade"
    inverse: float = Field(2.0, ge=0, description="λ: how much the third expert is tilted to an inverse distribution")

    def check(self, trial: TrialConfig) -> None:
        """Three experts; raises ``ValueError``."""
        if trial.model.experts != 3:
            raise ValueError(
                f"sade has three experts (forward, uniform, backward): set model.experts: 3, not {trial.model.experts}"
            )
