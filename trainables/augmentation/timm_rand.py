"""RandAugment on timm's scale, from timm's string, on batches in which every image has its own draws.

The reference is ``timm.data.auto_augment``, which has Pillow do it image by image: bilinear or bicubic, filled with a colour,
magnitudes of 0 to 10 that may be noisy. It is met to the last grey level where Pillow, like torch, does not fuse
multiplications and additions (wheels for x86-64). The geometry is float64, the rest float32 or integers; all of it is
element-wise, hence no result depends on the other images of the batch.

Where Posterize keeps no bit the image turns black, as it did until Pillow refused that: version 13 raises ``ValueError``, and
timm with it, from magnitude 10 on with ``inc1`` and below 2.5 without.

Shapes: ``N`` images, ``G`` images that drew one operation, ``S`` rows and columns; images are uint8 ``[N, 3, S, S]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from trainables.augmentation import operations
from trainables.augmentation.geometry import choose
from trainables.augmentation.static import constant, must_not_wait
from trainables.augmentation.timm_settings import Settings

OPERATIONS = (
    "AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd", "Color", "Contrast",
    "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip
DRAWS = 5  # uniforms for one use of an operation


class Draws(NamedTuple):
    """What happens to each image in one use of an operation."""

    operation: Tensor  # int64 [N], position in OPERATIONS
    used: Tensor  # bool [N], whether it is done at all
    magnitude: Tensor  # float64 [N], 0 to mmax
    negative: Tensor  # bool [N], for operations that have a sign
    bicubic: Tensor  # bool [N], for operations that interpolate; bilinear otherwise


def draw(settings: Settings, u: Tensor) -> Draws:
    """Turn uniforms in [0, 1), float32 ``[N, 5]``, into what happens: a column for each field of ``Draws``."""
    wide = u.double()
    if math.isinf(settings.mstd):
        magnitude = wide[:, 2] * settings.m
    else:
        # In the middle between two uniforms, so that 0 is not -∞.
        magnitude = torch.special.ndtri(wide[:, 2] + 2.0**-25) * settings.mstd + settings.m
    used, negative, bicubic = wide[:, 1] <= settings.p, wide[:, 3] > 0.5, choose(u[:, 4], 2) == 1
    return Draws(choose(u[:, 0], len(OPERATIONS)), used, magnitude.clamp(0, settings.mmax), negative, bicubic)


def _over(dividend: Tensor, divisor: float) -> Tensor:
    # On GPUs torch multiplies by the reciprocal of a number, and rounds twice.
    return dividend / torch.full_like(dividend, divisor)


def arguments(draws: Draws, increasing: bool, size: int) -> Tensor:
    """Say what magnitudes mean: degrees, bits, grey level, factor, slope or pixels, with their sign; float64 ``[N]``."""
    level, sign = _over(draws.magnitude, 10.0), 1.0 - 2.0 * draws.negative
    bits, threshold, factor = (level * 4).floor(), (level * 256).floor().clamp(max=256), level * 1.8 + 0.1
    if increasing:
        bits, threshold, factor = 4 - bits, 256 - threshold, (sign * (level * 0.9) + 1.0).clamp(min=0.1)
    none, shear, shift = torch.zeros_like(level), level * 0.3 * sign, level * 0.45 * sign * size
    added, angle = (level * 110).floor().clamp(max=128), level * 30.0 * sign
    each = [none, none, none, angle, bits, threshold, added, *[factor] * 4, shear, shear, shift, shift]
    return torch.stack(each).gather(0, draws.operation[None])[0]


# Operations on grey levels take images uint8 [G, 3, S, S] and arguments float64 [G, 1, 1, 1].
def _blend(images: Tensor, degenerate: Tensor, value: Tensor) -> Tensor:
    """Interpolate, or extrapolate, from a degenerate image (0) to the image (1) as Pillow does; truncates."""
    start = degenerate.to(torch.float32)
    return ((images - start) * value.to(torch.float32) + start).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _contrast(images: Tensor, value: Tensor) -> Tensor:
    grey = _grey(images)
    pixels = grey[0].numel()
    return _blend(images, (2 * grey.sum((1, 2, 3), keepdim=True) + pixels) // (2 * pixels), value)  # the rounded mean


def _sharpness(images: Tensor, value: Tensor) -> Tensor:
    each = torch.arange(len(images), device=images.device)
    kernel = torch.full_like(each, operations.position("Sharpness"))
    # A factor of 0 leaves the smoothed image, which is the same in torchvision.
    smooth = operations.apply(images, each, operations.Table.enhancing(["Sharpness"], kernel, torch.zeros_like(value)))
    return _blend(images, smooth, value)


def _autocontrast(images: Tensor, value: Tensor) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True).double(), images.amax((2, 3), keepdim=True).double()
    scale = torch.full_like(low, 255.0) / (high - low)
    return torch.where(low < high, (images * scale - low * scale).clamp_(0, 255), images).to(torch.uint8)


def _posterize(images: Tensor, value: Tensor) -> Tensor:
    dropped = (8 - value.clamp(0, 8)).to(torch.uint8)
    return (images >> dropped) << dropped


_GREY_LEVELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "AutoContrast": _autocontrast,
    "Equalize": lambda images, value: functional.equalize(images),
    "Invert": lambda images, value: ~images,
    "Posterize": _posterize,
    "Solarize": lambda images, value: torch.where(images >= value.to(torch.int16), ~images, images),
    "SolarizeAdd": lambda images, value: torch.where(images < 128, images + value.to(torch.uint8), images),
    "Color": lambda images, value: _blend(images, _grey(images), value),
    "Contrast": _contrast,
    "Brightness": lambda images, value: _blend(images, torch.zeros_like(value), value),
    "Sharpness": _sharpness,
}


def _maps(operation: Tensor, value: Tensor, size: int) -> Tensor:
    """Compute Pillow's affine maps, from where a pixel goes to where it comes from; float64 ``[6, G]``."""
    angle = -(torch.remainder(value, 360.0) * (math.pi / 180))
    # Pillow's 15 decimals make right angles exact. torch misses the last one now and then, which no grey level shows.
    cos, sin, centre = angle.cos().round(decimals=15), angle.sin().round(decimals=15), size / 2
    one, none = torch.ones_like(value), torch.zeros_like(value)
    maps = [
        [cos, sin, (cos * -centre - sin * centre) + centre, -sin, cos, (sin * centre - cos * centre) + centre],
        [one, value, none, none, one, none],
        [one, none, none, value, one, none],
        [one, none, value, none, one, none],
        [one, none, none, none, one, value],
    ]
    row = (operation - OPERATIONS.index("ShearX") + 1).clamp(min=0)
    return torch.stack([torch.stack(numbers) for numbers in maps]).gather(0, row.expand(1, 6, -1))[0]


def _linear(v: Sequence[Tensor], d: Tensor) -> Tensor:
    return v[0] + (v[1] - v[0]) * d


def _cubic(v: Sequence[Tensor], d: Tensor) -> Tensor:
    return v[1] + d * (v[2] - v[0] + d * ((v[0] - v[1]) * 2 + v[2] - v[3] + d * (v[1] - v[0] - v[2] + v[3])))


def _move(images: Tensor, maps: Tensor, bicubic: bool, fill: Tensor) -> Tensor:
    """Take every pixel from where its image's map, float64 ``[6, G]``, says; ``fill`` uint8 ``[3, 1, 1]`` from outside."""
    size = images.shape[-1]
    reach, mix = (2, _cubic) if bicubic else (1, _linear)
    along = torch.arange(size, device=images.device) + 0.5
    a, b, c, d, e, f = maps[..., None, None]
    x, y = a * along + b * along[:, None] + c, d * along + e * along[:, None] + f  # [G, S, S]
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    x, y = x - 0.5, y - 0.5
    left, top = x.floor(), y.floor()
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    # With its border repeated, an image has all neighbours of a pixel at the same distances in memory.
    border = torch.arange(-reach, size + reach, device=images.device).clamp_(0, size - 1)
    pixels, width = images[:, :, border[:, None], border].flatten(2), len(border)
    first = (top.clamp_(-1, size - 1) * width + left.clamp_(-1, size - 1)).long() + (width + 1)
    first = first.flatten(1)[:, None].expand(-1, images.shape[1], -1)

    def take(row: int, column: int) -> Tensor:
        return pixels[..., row * width + column :].gather(2, first).view_as(images).double()

    taps = range(2 * reach)
    value = mix([mix([take(row, column) for column in taps], dx) for row in taps], dy)
    return torch.where(inside[:, None], value.clamp_(0, 255).to(torch.uint8), fill)


def _everywhere(images: Tensor, kind: Tensor, operation: Tensor, value: Tensor, outside: Tensor) -> Tensor:
    """As ``apply``, every operation on all images; ``kind``: int64 ``[N]``, which of them counts."""
    out, drawn = images.clone(), kind.view(-1, 1, 1, 1)
    for number, name in enumerate(OPERATIONS):
        if name in _GREY_LEVELS:
            out = torch.where(drawn == number, _GREY_LEVELS[name](images, value.view(-1, 1, 1, 1)), out)
    at_once = max(1, 2**21 // images.shape[-1] ** 2)  # of the geometry's float64, about 2 GB
    maps = _maps(operation, value, images.shape[-1]).split(at_once, 1)
    for bicubic in (False, True):
        moved = [_move(some, its, bicubic, outside) for some, its in zip(images.split(at_once), maps, strict=True)]
        out = torch.where(drawn == len(OPERATIONS) + bicubic, torch.cat(moved), out)
    return out


def apply(images: Tensor, draws: Draws, increasing: bool, fill: tuple[int, int, int]) -> Tensor:
    """Do to each image of uint8 ``[N, 3, S, S]`` what was drawn for it; ``fill`` comes in from outside. A new tensor."""
    size, count = images.shape[-1], len(OPERATIONS)
    geometric = (draws.operation == OPERATIONS.index("Rotate")) | (draws.operation >= OPERATIONS.index("ShearX"))
    kind = torch.where(geometric, count + draws.bicubic.long(), draws.operation)
    kind = torch.where(draws.used, kind, count + 2)
    value = arguments(draws, increasing, size)
    outside = constant(fill, torch.uint8, images.device).view(3, 1, 1)
    if must_not_wait(images):
        return _everywhere(images, kind, draws.operation, value, outside)
    order = kind.argsort(stable=True)
    counts: list[int] = kind.bincount(minlength=count + 3).tolist()
    grouped, operation, value = images[order], draws.operation[order], value[order]
    at_once = max(
        1, 2**16 // size**2
    )  # the geometry is several times faster as long as its float64 stays in a CPU's caches
    last = 0
    for number, many in enumerate(counts[:-1]):
        which, last = slice(last, last + many), last + many
        if many and number < count:
            grouped[which] = _GREY_LEVELS[OPERATIONS[number]](grouped[which], value[which].view(-1, 1, 1, 1))
        elif many:
            maps = _maps(operation[which], value[which], size)
            for part, its in zip(grouped[which].split(at_once), maps.split(at_once, 1), strict=True):
                part.copy_(_move(part, its, number > count, outside))
    return torch.empty_like(grouped).index_copy_(0, order, grouped)


@dataclass(frozen=True)
class TimmRandAugment:
    """RandAugment as in timm: ``n`` operations of 15 with replacement; ``fill`` is a colour or a grey level, 128 in timm."""

    settings: Settings
    fill: int | tuple[int, int, int] = 128

    def __post_init__(self) -> None:
        """Check the fill; raises ``ValueError`` if it is no colour."""
        if len(self._colour) != 3 or not all(0 <= level <= 255 for level in self._colour):
            raise ValueError(f"fill must be a grey level of 0 to 255 or three of them, not {self.fill!r}")

    @property
    def _colour(self) -> tuple[int, int, int]:
        return (self.fill, self.fill, self.fill) if isinstance(self.fill, int) else self.fill

    @property
    def draws(self) -> int:
        """Uniforms in [0, 1) that one image needs: operation, use, magnitude, sign and interpolation, ``n`` times."""
        return DRAWS * self.settings.n

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        """Augment uint8 ``[N, 3, S, S]`` by uniforms ``[N, 5n]``."""
        images = images.clone()
        for step in range(self.settings.n):
            use = draw(self.settings, u[:, DRAWS * step : DRAWS * (step + 1)])
            images = apply(images, use, self.settings.inc, self._colour)
        return images
