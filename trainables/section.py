"""What every section of a study and of a configuration is checked for. Torch-free."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

LARGEST_INT, LARGEST_FLOAT = 2**53, 1e30


class Checked(BaseModel):
    """A section of a study: frozen, no unknown keys, ``true`` is no number, and numbers are of a size to be used."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and not _kinds(cls.model_fields[info.field_name or ""].annotation) & {bool, Any}:
            raise ValueError(f"{str(value).lower()} does not go here")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _numbers_in_range(cls, value: Any) -> Any:
        _check_size(value)
        return value


def _check_size(value: Any) -> None:
    """Raises ``ValueError`` for numbers that training in single precision, or an index of 64 bits, has no room for."""
    for number in value if isinstance(value, list | tuple) else [value]:
        if isinstance(number, int) and not -LARGEST_INT <= number <= LARGEST_INT:
            raise ValueError(f"{number:.3g} is out of range: whole numbers go up to {LARGEST_INT} (2^53)")
        if isinstance(number, float) and abs(number) > LARGEST_FLOAT:
            raise ValueError(
                f"{number:g} is out of range: numbers go up to {LARGEST_FLOAT:g}, which single precision still holds"
            )


def _kinds(annotation: Any) -> set[Any]:
    """All types that an annotation is made of."""
    return {annotation}.union(*map(_kinds, get_args(annotation))) if get_args(annotation) else {annotation}


class Section(Checked):
    """A section of a trial's configuration."""

    # A default that breaks a rule is a bug to be seen, not a special case.
    model_config = ConfigDict(validate_default=True)
