"""Options of the virtual-example distribution."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from trainables.methods.second_stage import ClosedFormOptions


class VirtualExamplesOptions(ClosedFormOptions):
    """The virtual-example distribution of a network, and the τ and p that DiVE's rule of thumb (section 3.4) proposes.

    Nothing is trained: the soft labels of all training images are added up by class, for τ = 1, …, 10 with and without power
    normalisation.
    """

    name: Literal["virtual_examples"] = "virtual_examples"
    power: float = Field(0.5, gt=0, le=1, description="p, where power normalisation is on")

    def first_method(self) -> dict[str, Any]:
        """BSCE, DiVE's teacher."""
        return {"method": {"name": "bsce"}}
