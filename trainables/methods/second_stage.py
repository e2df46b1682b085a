"""Second stages: trials that go on from a trained network. Torch-free.

Stage 1 is another trial: this one's recipe with another method (CE by default), so that several second stages, and the row of
that method itself, share it. The trial's own ``training.epochs``, ``schedule`` and ``optimizer`` are stage 1's; those of the
second stage are options of the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from trainables.catalogue import OneOf
from trainables.methods.options import MethodOptions, Requirement, derive
from trainables.sampling import RULES

if TYPE_CHECKING:
    from trainables.config import Loop, TrialConfig


class StageOptions(MethodOptions):
    """What comes first."""

    stage1: dict[str, Any] = Field({}, description="overrides of the trial that comes first, dotted or nested")

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """Stage 1, of the same seed."""
        return [Requirement("start", self.first(trial))]

    def first(self, trial: TrialConfig) -> TrialConfig:
        """The trial of stage 1: CE with instance sampling, unless ``stage1`` says otherwise."""
        return derive(trial, "method.stage1", self.first_method(), {"sampling": {"name": "instance"}}, self.stage1)

    def first_method(self) -> dict[str, Any]:
        """The method of stage 1."""
        return {"method": {"name": "ce"}}


class ClosedFormOptions(StageOptions):
    """A second stage that trains nothing."""

    def loop(self, trial: TrialConfig) -> Loop:
        """One epoch without a gradient step."""
        return super().loop(trial)._replace(epochs=1, trains=False)


class SecondStageOptions(StageOptions):
    """A second stage that trains a part of the network, the rest being frozen (Kang et al., ICLR 2020)."""

    epochs: int = Field(10, ge=1, description="of the second stage")
    lr: float = Field(0.1, gt=0, description="its peak learning rate, which a cosine takes to 0")
    weight_decay: float = Field(5e-4, ge=0, description="on what it trains")
    sampling: Annotated[str, OneOf(RULES)] = Field("class_balanced", description="as `sampling.name`")
    frozen_statistics: bool = Field(
        True, description="false: BatchNorm of the frozen part goes on normalising by, and updating, batch statistics, "
        "as the published code does"
    )  # fmt: skip

    def loop(self, trial: TrialConfig) -> Loop:
        """The second stage's own epochs."""
        from trainables.config import Loop, SamplingConfig, ScheduleConfig

        optimizer = trial.optimizer.model_copy(update={"lr": self.lr, "weight_decay": self.weight_decay})
        return Loop(self.epochs, optimizer, ScheduleConfig(name="cosine"), SamplingConfig(name=self.sampling))
