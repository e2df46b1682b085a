"""Options of CAM-based sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from trainables.methods.second_stage import SecondStageOptions

if TYPE_CHECKING:
    from trainables.config import TrialConfig


class CAMSamplingOptions(SecondStageOptions):
    """CAM-based sampling (Zhang et al., AAAI 2021; slides, Tables 2, 3): rare classes filled up with new images.

    New images are made of old ones: what stage 1's class activation map marks as foreground is turned and scaled, moved or
    mirrored over its own background. Every class is filled up to ``n_max + n_min``, and sampling is class-balanced. The whole
    network goes on training.
    """

    name: Literal["cam_sampling"] = "cam_sampling"
    epochs: int = Field(40, ge=1, description="of the second stage")
    lr: float = Field(0.01, gt=0, description="its peak learning rate, which a cosine takes to 0")
    weight_decay: float = Field(2e-4, ge=0, description="on all weights")
    threshold: float = Field(
        1.0, gt=0, description="foreground: above so many times the map's mean; 0.75 in the released code"
    )

    def check(self, trial: TrialConfig) -> None:
        """The map needs a linear classifier over a branch of its own; raises ``ValueError``."""
        if trial.model.classifier != "linear" or trial.model.shared == "backbone":
            raise ValueError(
                "cam_sampling reads class activation maps off a linear classifier over an unshared last stage"
            )
        if trial.data.whole:
            raise ValueError("cam_sampling pastes into images of one size: set data.aspect to keep or squash")
