"""Options of deep mutual learning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class DMLOptions(MethodOptions):
    """Deep mutual learning (Zhang et al., CVPR 2018): K networks that learn from labels and from each other."""

    wants: ClassVar[dict[str, Any]] = {"model.experts": 2}
    name: Literal["dml"] = "dml"
    weight: float = Field(1.0, ge=0, description="of the KL terms")
    balanced: bool = Field(False, description="true: balanced softmax in both terms")

    def check(self, trial: TrialConfig) -> None:
        """At least two; raises ``ValueError``."""
        if trial.model.experts < 2:
            raise ValueError("dml needs networks that learn from each other: set model.experts >= 2")
