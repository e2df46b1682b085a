"""What a backbone is: images in, pooled features out."""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """Float images ``[N, 3, H, W]`` to features ``[N, features]``."""

    features: int

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features ``[N, features]``."""
        raise NotImplementedError
