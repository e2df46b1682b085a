"""Crop, flip and Cutout, one position for each image, on batches of uint8 images.

Shapes: ``N`` images, ``H`` rows, ``W`` columns, ``S`` the side of the output; images are uint8 ``[N, 3, H, W]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms import functional

from trainables.augmentation.static import must_not_wait


def choose(u: Tensor, count: int) -> Tensor:
    """Map uniforms in [0, 1) to integers in ``range(count)``, int64 of the same shape, all equally likely."""
    # The clamp guards the largest float32 below 1, should the product be rounded up.
    return (u * count).long().clamp_(max=count - 1)


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the central ``size`` × ``size`` pixels, for evaluation; the images themselves if they have that size already.

    Raises:
        ValueError: the images are smaller than ``size``.

    """
    height, width = images.shape[-2:]
    if min(height, width) < size:
        raise ValueError(f"images of {height}×{width} px are too small for a crop of {size}×{size} px")
    return images if height == width == size else functional.center_crop(images, [size, size])


def crop_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor, size: int) -> Tensor:
    """Cut one window from each image and mirror some of them left to right.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        top: first row of each window, int64 ``[N]``, at most ``H - size``.
        left: first column of each window, int64 ``[N]``, at most ``W - size``.
        flip: which windows are mirrored, bool ``[N]``.
        size: side ``S`` of the window in pixels.

    Returns:
        A new tensor, uint8 ``[N, 3, S, S]``.

    """
    count, channels, height, width = images.shape
    if count == 0:
        return images.new_empty(0, channels, size, size)
    # Every run of `size` neighbouring pixels in memory is a candidate row of an output, so a crop is one index_select
    # of whole rows: several times faster than a gather of single pixels.
    rows = images.contiguous().view(-1).unfold(0, size, 1)
    device = images.device
    first = (top[:, None] + torch.arange(size, device=device)) * width + left[:, None]
    planes = torch.arange(count * channels, device=device).view(count, channels, 1) * (height * width)
    out = rows.index_select(0, (planes + first[:, None]).view(-1)).view(count, channels, size, size)
    if must_not_wait(images):
        return torch.where(flip[:, None, None, None], out.flip(-1), out)
    mirrored = flip.nonzero().view(-1)
    return out.index_copy_(0, mirrored, out.index_select(0, mirrored).flip(-1))


def cutout(images: Tensor, y: Tensor, x: Tensor, length: int) -> Tensor:
    """Set one square of each image to 0: Cutout of DeVries & Taylor (2017), as in the authors' implementation.

    The square covers rows ``y - length // 2`` up to, not including, ``y + length // 2``, and columns likewise; what
    lies outside the image is lost. An odd length therefore acts as the even number below it.

    Args:
        images: uint8 ``[N, 3, H, W]``.
        y: centre row of each square, int64 ``[N]``.
        x: centre column of each square, int64 ``[N]``.
        length: side of the square in pixels.

    Returns:
        A new tensor, uint8 ``[N, 3, H, W]``.

    """
    height, width = images.shape[-2:]
    half = length // 2
    above = torch.arange(height, device=images.device) - y[:, None]
    beside = torch.arange(width, device=images.device) - x[:, None]
    rows = (above >= -half) & (above < half)
    columns = (beside >= -half) & (beside < half)
    keep = ~(rows[:, None, :, None] & columns[:, None, None, :])
    # A product of uint8 is vectorised on CPUs, masked_fill of a broadcast mask is not.
    return images * keep.to(torch.uint8)


@dataclass(frozen=True)
class CropFlip:
    """Random crop, and horizontal flip with probability 1/2 unless ``flip`` is off, which leaves the draws as they are.

    Images of the output's size are padded with zeros first, by 4 px at 32 px and in proportion at other sizes (He et
    al., 2016, for CIFAR). Larger images are cropped without padding (224 px out of 256 px, for ImageNet).
    """

    size: int
    flip: bool = True
    draws: ClassVar[int] = 3

    @property
    def padding(self) -> int:
        """Zeros on each side of an image of the output's size, in pixels."""
        return max(1, round(4 * self.size / 32))

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Crop uint8 ``[N, 3, H, W]`` to ``[N, 3, S, S]``; ``u`` ``[N, 3]`` gives the row, the column and the flip.

        Raises:
            ValueError: the images are smaller than ``size``.

        """
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ValueError(f"images of {height}×{width} px are too small for a crop of {self.size}×{self.size} px")
        if height == width == self.size:
            images = torch.nn.functional.pad(images, (self.padding,) * 4)
            height, width = images.shape[-2:]
        top = choose(u[:, 0], height - self.size + 1)
        left = choose(u[:, 1], width - self.size + 1)
        return crop_flip(images, top, left, u[:, 2] < (0.5 if self.flip else 0.0), self.size)


@dataclass(frozen=True)
class CenterCrop:
    """The central pixels, for training without augmentation."""

    size: int
    draws: ClassVar[int] = 0

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Crop uint8 ``[N, 3, H, W]`` to ``[N, 3, S, S]``; raises ``ValueError`` if the images are smaller."""
        return center_crop(images, self.size).clone()


@dataclass(frozen=True)
class Cutout:
    """Cutout of one square, centred on any pixel with equal probability."""

    length: int
    draws: ClassVar[int] = 2

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Cut uint8 ``[N, 3, H, W]``; ``u`` ``[N, 2]`` gives the centre's row and column."""
        height, width = images.shape[-2:]
        return cutout(images, choose(u[:, 0], height), choose(u[:, 1], width), self.length)
