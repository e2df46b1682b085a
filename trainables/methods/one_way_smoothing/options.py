"""Options of one-way label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from trainables.methods.options import MethodOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainables.config import TrialConfig


class OneWaySmoothingOptions(MethodOptions):
    """DiVE's two-class experiment (Figs. 3 and 7): every head image is also a bit of a tail example, without a teacher.

    For two classes: ``data: {classes: [airplane, automobile], imbalance: {profile: step, factor: 10}}``.
    """

    wants: ClassVar[dict[str, Any]] = {"data.classes": ["0", "1"]}
    name: Literal["one_way_smoothing"] = "one_way_smoothing"
    flatness: float | None = Field(
        None, gt=0, le=1, description="r: virtual tail examples over virtual head examples; none: labels as they are"
    )

    def check(self, trial: TrialConfig) -> None:
        """Labels are soft already; raises ``ValueError``."""
        if trial.augmentation.mix != "none":
            raise ValueError(f"augmentation.mix = {trial.augmentation.mix!r} is not defined for one_way_smoothing")

    def check_data(self, trial: TrialConfig, class_counts: NDArray[np.int64]) -> None:
        """Two classes, and a flatness that smoothing can reach; raises ``ValueError``."""
        if len(class_counts) != 2:
            raise ValueError(f"one_way_smoothing is for two classes, not {len(class_counts)}: set data.classes")
        least = class_counts.min() / class_counts.max()
        if self.flatness is not None and self.flatness < least:
            raise ValueError(f"method.flatness = {self.flatness} is below {least:.3g}, what labels give as they are")
