"""Options of LFME."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions, Requirement, derive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.config import TrialConfig

Group = Literal["many", "medium", "few"]


class LFMEOptions(MethodOptions):
    """LFME (Xiang et al., ECCV 2020): an expert for each shot group, distilled into a student at the student's own pace.

    Built from the slides and from what the released code (which states no licence) computes; the paper was not at hand.
    """

    name: Literal["lfme"] = "lfme"
    groups: tuple[Group, ...] = Field(("many", "medium", "few"), min_length=1, description="experts, one each")
    temperature: float = Field(2.0, gt=0, description="of the distillation")
    pace: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="an expert teaches with full weight up to this share of its accuracy, then less and less",
    )
    curriculum: Literal["loss", "logits", "none"] = Field(
        "loss", description="easy images first: a weight of the loss; logits: of the logits, as the released code"
    )

    def check(self, trial: TrialConfig) -> None:
        """Images have one label; raises ``ValueError``."""
        if trial.augmentation.mix != "none":
            raise ValueError(
                f"augmentation.mix = {trial.augmentation.mix!r} is not defined for lfme, whose experts know no other class"
            )
        if len(set(self.groups)) != len(self.groups):
            raise ValueError(f"method.groups = {list(self.groups)} names a group twice")

    def check_data(self, trial: TrialConfig, class_counts: NDArray[np.int64]) -> None:
        """Every class has its expert, every expert a class; raises ``ValueError``."""
        from trainables.data.longtail import SHOT_BOUNDS

        there = [g for g, (low, high) in SHOT_BOUNDS.items() if ((class_counts >= low) & (class_counts <= high)).any()]
        if set(there) != set(self.groups):
            raise ValueError(
                f"method.groups = {list(self.groups)}, but the classes of this training set are {', '.join(there)}-shot: "
                f"set method.groups: [{', '.join(there)}]"
            )

    def requires(self, trial: TrialConfig) -> list[Requirement]:
        """An expert for each group: CE on its classes alone, of the same seed."""
        over = {"method": {"name": "ce"}, "model": {"experts": 1}, "augmentation": {"copies": 1, "copy_policies": []}}
        return [
            Requirement("teacher", derive(trial, "method.groups", over, {"data": {"shot_group": group}}))
            for group in self.groups
        ]
