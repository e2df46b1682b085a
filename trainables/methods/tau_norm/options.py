"""Options of τ-normalised classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainables.methods.options import Requirement, derive
from trainables.methods.second_stage import ClosedFormOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig

GRID = tuple(round(0.1 * i, 1) for i in range(21))  # the authors' sweep


class TauNormOptions(ClosedFormOptions):
    """τ-norm (Kang et al., ICLR 2020, eq. 5): rows of the classifier divided by the τ-th power of their norm.

    τ is chosen on validation images, never on the test set: of a stage 1 of its own that is trained without them, unless the
    trial has a validation split itself.
    """

    name: Literal["tau_norm"] = "tau_norm"
    tau: float | None = Field(None, ge=0, le=4, description="none: the best of 0, 0.1, …, 2 on validation images")
    bias: bool = Field(False, description="true: the classifier's bias is kept, as in one copy of the code")
    selection_per_class: int = Field(20, ge=1, description="validation images a class, to choose τ on")

    def check(self, trial: TrialConfig) -> None:
        """Only a linear classifier has norms; raises ``ValueError``."""
        if trial.model.classifier != "linear":
            raise ValueError("tau_norm normalises a linear classifier; model.classifier = 'cosine' has no norms")

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """Stage 1 and, to choose τ, the same method with images held out."""
        found = super().requires(trial)
        if self.tau is None and trial.data.val_per_class == 0:
            over = {"data.val_per_class": self.selection_per_class}
            found.append(Requirement("selection", derive(trial, "method.selection_per_class", over)))
        return found
