"""Options of the nearest class mean."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.second_stage import ClosedFormOptions


class NCMOptions(ClosedFormOptions):
    """NCM (Kang et al., ICLR 2020, section 4.2): the class whose mean training feature is nearest."""

    name: Literal["ncm"] = "ncm"
    features: Literal["l2n", "cl2n", "un"] = Field(
        "l2n",
        description="l2n: normalised; cl2n: centred on the mean of all, then normalised (the code's default); un: as is",
    )
    distance: Literal["cosine", "euclidean", "dot"] = Field(
        "cosine", description="dot: over the number of features, what the published code calls cosine"
    )
