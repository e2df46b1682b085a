"""From uint8 images to the network's input.

Shapes: ``N`` images, ``H`` rows, ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Scale grey levels to [0, 1] and standardise each channel: ``(x / 255 - mean) / std``.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel, of pixels in [0, 1].
        dtype: type of the result; half precision is computed in float32 and rounded once.
        memory_format: ``torch.channels_last`` for channels-last strides.

    Returns:
        A new tensor ``[N, 3, H, W]`` of ``dtype``.

    """
    compute = dtype if dtype == torch.float64 else torch.float32
    center = torch.tensor(mean, dtype=compute, device=images.device).view(-1, 1, 1)
    spread = torch.tensor(std, dtype=compute, device=images.device).view(-1, 1, 1)
    scaled = images.to(compute, memory_format=memory_format)
    return scaled.div_(255.0).sub_(center).div_(spread).to(dtype)
