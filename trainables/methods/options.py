"""The base of every method's options. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import ValidationError

from trainables.overrides import merge, nest
from trainables.section import Section

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.config import Loop, SamplingConfig, TrialConfig


class MethodOptions(Section):
    """Options of a method; subclasses add fields, fix ``name`` and state their recipe version."""

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
