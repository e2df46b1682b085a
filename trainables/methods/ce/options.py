"""Options of cross-entropy."""

from __future__ import annotations

from typing import Literal

from trainables.methods.options import MethodOptions


class CEOptions(MethodOptions):
    """Cross-entropy on the plain softmax, eq. 1; it has no options."""

    name: Literal["ce"] = "ce"
