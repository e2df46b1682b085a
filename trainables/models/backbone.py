"""What a backbone is: a chain of parts from images to pooled features, which several branches may share the head of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Backbone(nn.Module):
    """Float images ``[N, 3, H, W]`` to features ``[N, features]``.

    ``parts`` follow one another: the stem, then one part a residual block, then pooling.
    """

    def __init__(self, parts: Sequence[nn.Module], stages: Sequence[int], features: int) -> None:
        """``stages``: how many blocks every stage has."""
        super().__init__()
        self.parts = nn.Sequential(*parts)
        self.stages = tuple(stages)
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[N, features]``."""
        out: Tensor = self.parts(images)
        return out

    def leading(self, shared: str) -> int:
        """How many parts a network with this ``model.shared`` has in common; raises ``ValueError`` for a missing stage."""
        blocks = sum(self.stages)
        if shared.startswith("stage"):
            number = int(shared.removeprefix("stage"))
            if number > len(self.stages):
                raise ValueError(f"model.shared = {shared!r}: this backbone has {len(self.stages)} stages")
            return 1 + sum(self.stages[:number])
        return {"none": 0, "stem": 1, "all_but_last_block": blocks, "backbone": len(self.parts)}[shared]


class Stem(nn.Sequential):
    """What comes before the first block."""
