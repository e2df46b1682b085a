"""The base of every method's options. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from trainables.overrides import merge, nest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.config import Loop, SamplingConfig, TrialConfig


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


class MethodOptions(Checked):
    """Options of a method; subclasses add fields, fix ``name`` and state their recipe version."""

    model_config = ConfigDict(validate_default=True)

    recipe: ClassVar[int] = 1
    # What a trial must have elsewhere for this method, dotted: shown in the documentation, taken by the conformance suite.
    wants: ClassVar[dict[str, Any]] = {}
    name: str

    def check(self, trial: TrialConfig) -> None:
        """Rules between these options and the rest of the configuration; raises ``ValueError``."""

    def check_data(self, trial: TrialConfig, class_counts: NDArray[np.int64]) -> None:
        """Rules between these options and the images of every class; raises ``ValueError``."""

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """Trials that come first; each is trained once for all that need it. Raises ``ValueError`` for an invalid one."""
        return []

    def loop(self, trial: TrialConfig) -> Loop:
        """What this trial itself runs."""
        from trainables.config import Loop

        return Loop(trial.training.epochs, trial.optimizer, trial.schedule, trial.sampling)

    def streams(self, trial: TrialConfig) -> tuple[SamplingConfig, ...]:
        """Further samplings of which every step gets as many images, behind those of the trial's own."""
        return ()


class Requirement(NamedTuple):
    """A trial that comes first, and what for."""

    role: Literal["teacher", "start", "selection"]  # taught by it; goes on from its weights; takes what it has selected
    trial: TrialConfig


def derive(trial: TrialConfig, where: str, *overrides: Mapping[str, Any]) -> TrialConfig:
    """Another trial like this one, with overrides (dotted or nested) on top; raises ``ValueError`` naming ``where``."""
    tree = trial.model_dump(mode="json")
    for over in overrides:
        tree = merge(tree, nest(over))
    try:
        return type(trial).model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise ValueError(f"{where}: {problems}") from None
