"""From uint8 images to the network's input.

Shapes: ``N`` images, ``H`` rows, ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainables.augmentation.static import constant


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
    center, spread = (constant(tuple(each), compute, images.device).repeat(width) for each in (mean, std))
    rows = images.permute(0, 2, 3, 1).contiguous().view(count, height, width * channels).to(compute)
    rows = rows.div_(255.0).sub_(center).div_(spread).to(dtype)
    return rows.view(count, height, width, channels).permute(0, 3, 1, 2)


def normalize_by_table(
    images: Tensor, mean: Sequence[float], std: Sequence[float], *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """As ``normalize``, to the last bit, on the CPU by one thread: its 256 results a channel are looked up.

    For large images that other threads decode meanwhile: torch's own threads would wait for cores that these have.
    """
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(1, 3, 1, 256)
    table = normalize(levels, mean, std, dtype=dtype)[0, :, 0].contiguous()
    if dtype == torch.bfloat16:  # which NumPy lacks
        table = table.view(torch.int16)
    pixels = images.numpy()
    out = np.empty((len(images), *images.shape[2:], 3), table.numpy().dtype)
    for channel, found in enumerate(table.numpy()):
        out[..., channel] = found[pixels[:, channel]]
    return torch.from_numpy(out).view(dtype).permute(0, 3, 1, 2)
