"""Options of learnable weight scaling."""

from __future__ import annotations

from typing import Literal

from trainables.methods.second_stage import SecondStageOptions


class LWSOptions(SecondStageOptions):
    """LWS (Kang et al., ICLR 2020, section 4.2): ``s_j · z_j`` with everything but the C scales frozen."""

    name: Literal["lws"] = "lws"
