"""The base of every method's options. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class Checked(BaseModel):
    """A section of a study: frozen, no unknown keys, and ``true`` is no number."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and not _kinds(cls.model_fields[info.field_name or ""].annotation) & {bool, Any}:
            raise ValueError(f"{str(value).lower()} does not go here")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """All types that an annotation is made of."""
    return {annotation}.union(*map(_kinds, get_args(annotation))) if get_args(annotation) else {annotation}


class MethodOptions(Checked):
    """Options of a method; subclasses add fields, fix ``name`` and state their recipe version."""

    model_config = ConfigDict(validate_default=True)

    recipe: ClassVar[int] = 1
    name: str

    def check(self, trial: TrialConfig) -> None:
        """Rules between these options and the rest of the configuration; raises ``ValueError``."""

    def teachers(self, trial: TrialConfig) -> list[TrialConfig]:
        """Trials whose final weights this one learns from; they are trained first, and once for all that need them."""
        return []
