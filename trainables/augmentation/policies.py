"""The policies: chains of stages, each of which takes its own columns of the uniforms.

Shapes: ``N`` images, ``H`` rows, ``W`` columns, ``S`` the side of the output; images are uint8 ``[N, 3, H, W]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import autoaugment

from trainables.augmentation.color import ColorJitter
from trainables.augmentation.geometry import CenterCrop, CropFlip, Cutout, choose
from trainables.augmentation.operations import IDENTITY, Entry, Table, apply, compile_table, magnitude
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.resized_crop import RandomResizedCrop
from trainables.augmentation.static import constant
from trainables.augmentation.timm_rand import TimmRandAugment
from trainables.augmentation.timm_settings import parse
from trainables.data.on_disk import decoders

if TYPE_CHECKING:
    from PIL.Image import Image

    Copies = Sequence[tuple["Chain", Tensor]]

IMAGENET_MEAN = (124, 116, 104)  # what timm fills with
_PICTURES = 64  # whole ones that are held at a time
RAND_LEVELS = 31  # magnitude bins of torchvision's RandAugment
AUTO_LEVELS = 10  # magnitude bins of AutoAugment
RAND_OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip


class Policy(Protocol):
    """Augmentation of a batch as a pure function of the images and of uniforms, ``draws`` of them for each image."""

    @property
    def draws(self) -> int:
        """Uniforms in [0, 1) that one image needs."""

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Augment each image by its own draws.

        Args:
            images: uint8 ``[N, 3, H, W]``, which are not modified.
            u: float32 ``[N, draws]`` in [0, 1), on the images' device.

        Returns:
            A new tensor, uint8 ``[N, 3, S, S]``; image ``i`` depends on ``images[i]`` and ``u[i]`` only.

        """


@dataclass(frozen=True)
class Chain:
    """Stages one after another; a chain of none copies the images."""

    stages: tuple[Policy, ...]

    @property
    def draws(self) -> int:
        """Uniforms in [0, 1) that one image needs: the sum over the stages."""
        return sum(stage.draws for stage in self.stages)

    def __call__(self, images: Tensor, u: Tensor, *, cut: bool = False) -> Tensor:
        """Augment uint8 ``[N, 3, H, W]`` by uniforms ``[N, draws]``; with ``cut`` the first stage has been done.

        Raises:
            ValueError: the images or the uniforms have another type or shape.

        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be uint8 [N, 3, H, W], not {images.dtype} {list(images.shape)}")
        if u.shape != (len(images), self.draws):
            raise ValueError(f"u must be [{len(images)}, {self.draws}], not {list(u.shape)}")
        if not self.stages:
            return images.clone()
        first = 0
        for number, stage in enumerate(self.stages):
            if number or not cut:
                images = stage(images, u[:, first : first + stage.draws])
            first += stage.draws
        return images


def cut_copies(read: Callable[[NDArray[np.int64]], Sequence[Image]], numbers: Tensor, copies: Copies) -> Tensor:
    """The first stage of augmentation, out of whole pictures: ``data.aspect: whole``.

    Args:
        read: gives Pillow images of whatever sizes by their numbers.
        numbers: int64 ``[N]``, on the CPU.
        copies: for each of ``T`` copies a chain that begins with a random resized crop, and its uniforms ``[N, draws]``.

    Returns:
        uint8 ``[T, N, 3, S, S]`` on the CPU, to be augmented on by ``chain(…, cut=True)``. A picture is decoded once.

    """
    found = []
    for some in torch.arange(len(numbers)).split(_PICTURES):
        pictures = read(numbers[some].numpy())
        cuts = []
        for chain, u in copies:
            crop = chain.stages[0]
            assert isinstance(crop, RandomResizedCrop)  # a rule of TrialConfig
            cuts.append(crop.of_pictures(pictures, u[some, : crop.draws].cpu(), decoders()))
        found.append(torch.stack(cuts))
    return torch.cat(found, 1)


@lru_cache(maxsize=1024)
def _signed(operation: str, level: int, levels: int, size: int) -> tuple[Entry, Entry]:
    """Pair the entries of positive and negative sign, which are the same for an operation that has none."""
    value, signed = magnitude(operation, level, levels, size)
    return (operation, value), (operation, -value if signed else value)


@dataclass(frozen=True)
class RandAugment:
    """RandAugment (Cubuk et al., 2020) as in torchvision: ``n`` operations of magnitude bin ``m`` of 31.

    Operations are drawn uniformly from 14 with replacement; signs are negative with probability 1/2.
    """

    n: int
    m: int
    fill: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: ``n`` is negative or ``m`` is not one of the 31 bins.

        """
        if self.n < 0 or not 0 <= self.m < RAND_LEVELS:
            raise ValueError(f"RandAugment needs n >= 0 and 0 <= m < {RAND_LEVELS}, not n = {self.n}, m = {self.m}")

    @property
    def draws(self) -> int:
        """Uniforms in [0, 1) that one image needs: operation and sign, ``n`` times."""
        return 2 * self.n

    def entries(self, size: int) -> tuple[Entry, ...]:
        """List what may happen to an image of ``size`` px: entry ``2·operation + sign``, sign 1 being negative."""
        return tuple(entry for name in RAND_OPERATIONS for entry in _signed(name, self.m, RAND_LEVELS, size))

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Augment uint8 ``[N, 3, S, S]`` by uniforms ``[N, 2n]``."""
        size = images.shape[-1]
        table = _table(self, size, images.device)
        for step in range(self.n):
            operation, sign = choose(u[:, 2 * step], len(RAND_OPERATIONS)), choose(u[:, 2 * step + 1], 2)
            images = apply(images, 2 * operation + sign, table)
        return images


@dataclass(frozen=True)
class AutoAugment:
    """AutoAugment (Cubuk et al., 2019): one of the 25 sub-policies found on CIFAR-10, as in torchvision.

    A sub-policy is two operations, each with a probability and a magnitude bin of 10; signs are drawn. torchvision fills with
    black; the widely copied code of the policy with grey level 128.
    """

    fill: int = 0
    draws: ClassVar[int] = 5
    policies: ClassVar[tuple[tuple[tuple[str, float, int | None], ...], ...]] = tuple(
        autoaugment.AutoAugment(autoaugment.AutoAugmentPolicy.CIFAR10).policies
    )

    def entries(self, size: int) -> tuple[Entry, ...]:
        """List what may happen to an image of ``size`` px: entry ``4·policy + 2·step + sign``; the last is Identity."""
        drawn = [
            # torchvision's sign 0 is negative here, other than in its RandAugment.
            entry
            for policy in self.policies
            for name, _, level in policy
            for entry in reversed(_signed(name, level or 0, AUTO_LEVELS, size))
        ]
        return (*drawn, IDENTITY)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Augment uint8 ``[N, 3, S, S]``; ``u`` ``[N, 5]``: sub-policy, two uses and two signs."""
        size = images.shape[-1]
        table = _table(self, size, images.device)
        pairs = tuple((first[1], second[1]) for first, second in self.policies)
        policy = choose(u[:, 0], len(self.policies))
        used = u[:, 1:3] <= constant(pairs, torch.float32, images.device)[policy]
        for step in range(2):
            entry = 4 * policy + 2 * step + choose(u[:, 3 + step], 2)
            images = apply(images, torch.where(used[:, step], entry, len(table.kernel) - 1), table)
        return images


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # in a graph it is a constant
def _table(policy: RandAugment | AutoAugment, size: int, device: torch.device) -> Table:
    return compile_table(policy.entries(size), size, size, device, policy.fill)


def _chain(size: int, options: AugmentationConfig, *between: Policy, cutout: int | None = None) -> Chain:
    """Crop and flip, colour jitter, what stands between, and Cutout of so many pixels unless the options name another."""
    asked = cutout if options.cutout is None else options.cutout
    if asked is not None and asked < 0:
        raise ValueError(f"cutout must be a number of pixels, 0 for none, not {asked}")
    if options.crop == "random_resized_crop":
        crop: Policy = RandomResizedCrop(size, options.crop_scale, options.flip)
    else:
        crop = CropFlip(size, options.flip)
    jitter = (ColorJitter(options.color_jitter),) if options.color_jitter else ()
    return Chain((crop, *jitter, *between, *((Cutout(asked),) if asked else ())))


def none(size: int, options: AugmentationConfig) -> Chain:
    """Build the centre crop, which draws nothing; with Cutout if it is asked for."""
    return Chain((CenterCrop(size), *((Cutout(options.cutout),) if options.cutout else ())))


def sim(size: int, options: AugmentationConfig) -> Chain:
    """Build crop and flip; with colour jitter and Cutout if they are asked for."""
    return _chain(size, options)


def rand(size: int, options: AugmentationConfig) -> Chain:
    """Build crop, flip and RandAugment of ``n`` operations at bin ``m``, or as timm's string says; with Cutout if asked for."""
    if options.rand is not None:
        return _chain(size, options, TimmRandAugment(parse(options.rand), IMAGENET_MEAN))
    return _chain(size, options, RandAugment(options.n, options.m, options.fill))


def auto(size: int, options: AugmentationConfig) -> Chain:
    """Build crop, flip, AutoAugment and Cutout, 16 px at 32 px and in proportion at other sizes; 0 turns Cutout off."""
    return _chain(size, options, AutoAugment(options.fill), cutout=round(16 * size / 32))
