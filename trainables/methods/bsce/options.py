"""Options of balanced softmax cross-entropy."""

from __future__ import annotations

from typing import Literal

from trainables.methods.options import MethodOptions


class BSCEOptions(MethodOptions):
    """Balanced softmax cross-entropy (Ren et al., NeurIPS 2020; NCL++ eq. 2, 3); it has no options."""

    name: Literal["bsce"] = "bsce"
