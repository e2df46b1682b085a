"""The base of every method's options. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class MethodOptions(BaseModel):
    """Options of a method; subclasses add fields, fix ``name`` and state their recipe version."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    recipe: ClassVar[int] = 1
    name: str

    def check(self, trial: TrialConfig) -> None:
        """Rules between these options and the rest of the configuration; raises ``ValueError``."""

    def teachers(self, trial: TrialConfig) -> list[TrialConfig]:
        """Trials whose final weights this one learns from; they are trained first, and once for all that need them."""
        return []
