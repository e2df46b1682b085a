"""From uint8 images to the network's input.

Shapes: ``N`` images, ``H`` rows, ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalize(
    images: Tensor, mean: Sequence[float], std: Sequence[float], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Scale grey levels to [0, 1] and standardise each channel: ``(x / 255 - mean) / std``.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        mean: mean of each channel, of pixels in [0, 1].
        std: standard deviation of each channel, of pixels in [0, 1].
        dtype: type of the result; half precision is computed in float32 and rounded once.

    Returns:
        A new tensor ``[N, 3, H, W]`` of ``dtype``, with channels-last strides.

    """
    compute = dtype if dtype == torch.float64 else torch.float32
    count, channels, height, width = images.shape
    # As rows of W·3 numbers, so that the channels' constants are rows as well: several times faster than three at a time.
    center, spread = (torch.tensor(each, dtype=compute, device=images.device).repeat(width) for each in (mean, std))
    rows = images.permute(0, 2, 3, 1).contiguous().view(count, height, width * channels).to(compute)
    rows = rows.div_(255.0).sub_(center).div_(spread).to(dtype)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)
