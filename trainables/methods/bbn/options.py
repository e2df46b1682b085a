"""Options of the bilateral-branch network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from trainables.catalogue import OneOf
from trainables.methods.options import MethodOptions
from trainables.sampling import RULES

if TYPE_CHECKING:
    from trainables.config import SamplingConfig, TrialConfig


class BBNOptions(MethodOptions):
    """BBN (Zhou et al., CVPR 2020): a conventional and a re-balancing branch, mixed by a weight that shifts over the epochs.

    Wants ``model: {experts: 2, shared: all_but_last_block}``; a step sees as many images of each of the two samplings.
    """

    wants: ClassVar[dict[str, Any]] = {"model.experts": 2, "model.shared": "all_but_last_block"}
    name: Literal["bbn"] = "bbn"
    rebalancing: Annotated[str, OneOf(RULES)] = Field(
        "reversed", description="as `sampling.name`, of the re-balancing branch"
    )
    formulation: Literal["paper", "official"] = Field(
        "paper", description="official: features times 2α and 2(1-α), a bias, and no factor at test time"
    )

    def check(self, trial: TrialConfig) -> None:
        """Two branches that share something, images that are not mixed; raises ``ValueError``."""
        if trial.model.experts != 2 or trial.model.shared in ("none", "backbone"):
            raise ValueError(
                f"bbn has two branches on a shared trunk: set model.experts: 2 (now {trial.model.experts}) and "
                f"model.shared: all_but_last_block (now {trial.model.shared})"
            )
        if trial.augmentation.mix != "none":
            raise ValueError(
                f"augmentation.mix = {trial.augmentation.mix!r} is not defined for bbn, which mixes labels itself"
            )
        self.streams(trial)

    def streams(self, trial: TrialConfig) -> tuple[SamplingConfig, ...]:
        """The re-balancing branch's sampling; the trial's own is the conventional branch's."""
        from trainables.config import SamplingConfig

        return (SamplingConfig(name=self.rebalancing),)
