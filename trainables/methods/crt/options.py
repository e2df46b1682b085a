"""Options of classifier re-training."""

from __future__ import annotations

from typing import Literal

from trainables.methods.second_stage import SecondStageOptions


class CRTOptions(SecondStageOptions):
    """cRT (Kang et al., ICLR 2020, section 4.2): a new classifier, trained with class-balanced sampling on frozen features."""

    name: Literal["crt"] = "crt"
