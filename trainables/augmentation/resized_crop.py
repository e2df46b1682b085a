"""A random window of random size, resized: Inception's crop, on batches of uint8 images with a window each.

Windows are drawn as ``torchvision.transforms.RandomResizedCrop`` draws them and resized as Pillow resizes rows, then columns,
with its bilinear filter, to the last grey level. (From version 13 on Pillow goes down the columns first where that is cheaper,
and may differ by one.) It works with integers, so that no result depends on a device or on the batch.

Shapes: ``N`` images, ``H`` rows, ``W`` columns, ``S`` the side of the output, ``R`` pixels that one pixel is made from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainables.augmentation.static import must_not_wait

_BITS = 22  # of the fraction of Pillow's weights
_TRIES = 10  # torchvision's, until it takes a window in the centre


def windows(u: Tensor, height: Tensor, width: Tensor, scale: tuple[float, float], ratio: tuple[float, float]) -> Tensor:
    """Draw windows.

    Args:
        u: uniforms ``[N, 22]``: area and aspect ratio of ten proposals, of which the first that fits is taken; row and column.
        height: int64 ``[N]``, rows of the images.
        width: int64 ``[N]``, columns of the images.
        scale: smallest and largest part of the area.
        ratio: smallest and largest width over height, uniform in their logarithm.

    Returns:
        int64 ``[N, 4]``: first row, first column, rows and columns.

    """
    proposals = u[:, : 2 * _TRIES].double().view(-1, _TRIES, 2)
    high_side, wide_side = height[:, None], width[:, None]
    area = (high_side * wide_side) * (scale[0] + proposals[..., 0] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + proposals[..., 1] * (high - low))
    wide, tall = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()  # [N, 10]
    fits = (wide > 0) & (wide <= wide_side) & (tall > 0) & (tall <= high_side)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    rows, columns = tall.gather(1, first)[:, 0], wide.gather(1, first)[:, 0]
    # None of them fits: as much of the centre as the aspect ratio allows.
    own = width.double() / height
    central_columns = torch.where(own <= ratio[1], width, (height.double() * ratio[1]).round().long())
    central_rows = torch.where(own >= ratio[0], height, (width.double() / ratio[0]).round().long())
    some = fits.any(1)
    rows = torch.where(some, rows, central_rows)
    columns = torch.where(some, columns, central_columns)
    top, left = _choose(u[:, -2], height - rows + 1), _choose(u[:, -1], width - columns + 1)
    top = torch.where(some, top, (height - central_rows) // 2)
    left = torch.where(some, left, (width - central_columns) // 2)
    return torch.stack([top, left, rows, columns], dim=1)


def _choose(u: Tensor, count: Tensor) -> Tensor:
    """As ``geometry.choose``, with a range for each."""
    return torch.minimum((u * count).long(), count - 1)


def _taps(length: Tensor, size: int, most: int) -> tuple[Tensor, Tensor]:
    """Which pixels make a pixel, and how much each counts.

    Args:
        length: int64 ``[N]``, pixels of each window along this axis.
        size: pixels that it becomes.
        most: the longest that a window can be.

    Returns:
        int64 ``[N, S, R]``, pixels counted from the window's first, and int32 ``[N, S, R]``, weights that add up to about 2²².

    """
    scale = length.double()
    scale = scale / torch.full_like(scale, size)  # by a number, GPUs would multiply with its reciprocal
    support = scale.clamp(min=1.0)  # of the triangle, which widens where the window shrinks
    centre = (torch.arange(size, device=length.device) + 0.5) * scale[:, None]  # [N, S]
    first = (centre - support[:, None] + 0.5).long().clamp_(min=0)
    last = torch.minimum((centre + support[:, None] + 0.5).long(), length[:, None])  # the first that does not count
    reach = 2 * math.ceil(max(1.0, most / size)) + 1
    pixel = first[..., None] + torch.arange(reach, device=length.device)
    distance = ((pixel - centre[..., None] + 0.5) * (1 / support)[:, None, None]).abs()
    weight = torch.where(pixel < last[..., None], (1 - distance).clamp(min=0), 0.0)
    weight = weight / weight.sum(-1, keepdim=True)
    return pixel.clamp_(max=most - 1), (weight * (1 << _BITS) + 0.5).to(torch.int32)


def _resize_rows(images: Tensor, start: Tensor, length: Tensor, size: int) -> Tensor:
    """Columns ``start`` to ``start + length`` of each image ``[N, C, H, W]``, resized to ``[N, C, H, S]``."""
    count, channels, height, width = images.shape
    pixel, weight = _taps(length, size, width)
    pixel = (pixel + start[:, None, None]).clamp_(max=width - 1)
    total = torch.full((count, channels, height, size), 1 << (_BITS - 1), dtype=torch.int32, device=images.device)
    for tap in range(pixel.shape[-1]):
        at = pixel[..., tap].view(count, 1, 1, size).expand(-1, channels, height, -1)
        total += images.gather(3, at) * weight[..., tap].view(count, 1, 1, size)
    return (total >> _BITS).clamp_(0, 255).to(torch.uint8)


def resized_crop(images: Tensor, window: Tensor, size: int) -> Tensor:
    """Cut a window out of each image and resize it with Pillow's bilinear filter.

    On a CPU Pillow does it, image by image, which is several times faster there; elsewhere all images at once.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        window: int64 ``[N, 4]``: first row, first column, rows and columns.
        size: side ``S`` of the output in pixels.

    Returns:
        A new tensor, uint8 ``[N, 3, S, S]``.

    """
    return (all_at_once if must_not_wait(images) else _by_pillow)(images, window, size)


def _by_pillow(images: Tensor, window: Tensor, size: int) -> Tensor:
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    out = np.empty((len(images), size, size, images.shape[1]), np.uint8)
    for number, (top, left, rows, columns) in enumerate(window.tolist()):
        out[number] = _resized(Image.fromarray(pixels[number, top : top + rows, left : left + columns]), size)
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def _resized(cut: Image.Image, size: int) -> NDArray[np.uint8]:
    # In two steps, since in one Pillow chooses which comes first.
    wide = cut.resize((size, cut.height), Image.Resampling.BILINEAR)
    return np.asarray(wide.resize((size, size), Image.Resampling.BILINEAR))


def cut_pictures(pictures: Sequence[Image.Image], window: Tensor, size: int, pool: Executor) -> Tensor:
    """As ``resized_crop``, out of Pillow images ``[N]`` of whatever sizes, on the CPU."""
    out = np.empty((len(pictures), size, size, 3), np.uint8)
    places = window.tolist()

    def cut(number: int) -> None:
        top, left, rows, columns = places[number]
        out[number] = _resized(pictures[number].crop((left, top, left + columns, top + rows)), size)

    list(pool.map(cut, range(len(pictures))))
    return torch.from_numpy(out).permute(0, 3, 1, 2).contiguous()


def all_at_once(images: Tensor, window: Tensor, size: int) -> Tensor:
    """As ``resized_crop``, by the same integers on whatever device."""
    top, left, rows, columns = window.unbind(1)
    wide = _resize_rows(images, left, columns, size)  # Pillow resizes horizontally first, and rounds in between
    return _resize_rows(wide.transpose(2, 3), top, rows, size).transpose(2, 3).contiguous()


@dataclass(frozen=True)
class RandomResizedCrop:
    """A window of random area and aspect ratio, resized, and horizontal flip with probability 1/2 unless ``flip`` is off."""

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    ratio: ClassVar[tuple[float, float]] = (3 / 4, 4 / 3)
    draws: ClassVar[int] = 2 * _TRIES + 3

    def __post_init__(self) -> None:
        """Check the scale; raises ``ValueError`` if it is none."""
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop_scale must be 0 < smallest <= largest <= 1, not {list(self.scale)}")

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Crop uint8 ``[N, 3, H, W]`` to ``[N, 3, S, S]``; ``u`` ``[N, 23]``: the windows' draws, then the flip."""
        height, width = (torch.full((len(images),), side, device=images.device) for side in images.shape[-2:])
        return self._flipped(resized_crop(images, self._windows(u, height, width), self.size), u)

    def of_pictures(self, pictures: Sequence[Image.Image], u: Tensor, pool: Executor) -> Tensor:
        """The same out of Pillow images of whatever sizes, with ``u`` on the CPU."""
        width, height = torch.tensor([picture.size for picture in pictures]).view(-1, 2).unbind(1)
        return self._flipped(cut_pictures(pictures, self._windows(u, height, width), self.size, pool), u)

    def _windows(self, u: Tensor, height: Tensor, width: Tensor) -> Tensor:
        return windows(u[:, :-1], height, width, self.scale, self.ratio)

    def _flipped(self, out: Tensor, u: Tensor) -> Tensor:
        mirrored = u[:, -1] < (0.5 if self.flip else 0.0)
        return torch.where(mirrored[:, None, None, None], out.flip(-1), out)
