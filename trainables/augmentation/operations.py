"""The operations of AutoAugment and RandAugment on batches in which every image has its own operation and magnitude.

The reference is what ``torchvision.transforms.RandAugment`` and ``AutoAugment`` do to one uint8 tensor, sampling the
nearest neighbour and filling with one grey level. It is met exactly up to 256×256 px; above, torchvision's float32 mean in
Contrast is itself not exact.

A ``Table`` lists what may happen to an image: pairs of an operation and a signed magnitude. A batch is sorted by
operation, so that a batch costs one call for each operation, however many magnitudes and signs are drawn. Everything is
either integer arithmetic or element-wise, hence no result depends on the other images of the batch.

Shapes: ``N`` images, ``G`` images that drew one operation, ``H`` rows, ``W`` columns, ``V`` entries of the table,
``M`` distinct geometric maps; images are uint8 ``[N, 3, H, W]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import functional
from torchvision.transforms.v2 import functional as functional_v2

from trainables.augmentation.static import must_not_wait

Entry = tuple[str, float]

IDENTITY: Entry = ("Identity", 0.0)


@dataclass(frozen=True, eq=False)
class Table:
    """What may happen to an image of one size, as tensors on one device; ``V`` entries."""

    kinds: tuple[int, ...]  # positions in KERNELS of all that may happen
    kernel: Tensor  # int64 [V], position of the entry's operation in KERNELS
    row: Tensor  # int64 [V], row of `source` and `inside`; 0 for operations that move nothing
    source: Tensor  # int64 [M, H·W], for each output pixel the input pixel it is copied from
    inside: Tensor  # uint8 [M, H·W], 0 where the input pixel would lie outside the image
    outside: Tensor | None  # uint8 [M, H·W], the fill there and 0 elsewhere; None for black
    ratio: Tensor  # float32 [V, 1, 1, 1], enhancement factor 1 + magnitude
    rest: Tensor  # float32 [V, 1, 1, 1], 1 - ratio, rounded once
    threshold: Tensor  # uint8 [V, 1, 1, 1], Solarize inverts grey levels from here on
    mask: Tensor  # uint8 [V, 1, 1, 1], the high bits that Posterize keeps

    @classmethod
    def enhancing(cls, names: Sequence[str], kernel: Tensor, ratio: Tensor) -> Table:
        """Entries of these of Brightness, Contrast, Color and Sharpness, with factors of their own.

        ``kernel``: int64 ``[V]``, their positions; ``ratio``: float64 ``[V, 1, 1, 1]``.
        """
        none = torch.empty(0, device=kernel.device)
        rest = (1.0 - ratio).to(torch.float32)
        kinds = tuple(sorted({position(name) for name in names}))
        return cls(kinds, kernel, none, none, none, None, ratio.to(torch.float32), rest, none, none)


Kernel = Callable[[Tensor, Tensor, Table], Tensor]


def _move(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    """Shear, translate or rotate by copying pixels along the entry's map."""
    row = table.row[entry]
    source = table.source.index_select(0, row)[:, None].expand(-1, images.shape[1], -1)
    inside = table.inside.index_select(0, row)[:, None]
    moved = images.flatten(2).gather(2, source) * inside
    if table.outside is not None:
        moved += table.outside.index_select(0, row)[:, None]
    return moved.view_as(images)


def _blend(images: Tensor, degenerate: Tensor, entry: Tensor, table: Table) -> Tensor:
    """Interpolate, or extrapolate, between a degenerate image (ratio 0) and the image (ratio 1); truncates."""
    # Separate products and sum: a fused multiply-add would round otherwise than torchvision.
    mixed = images * table.ratio[entry]
    return mixed.add_(degenerate * table.rest[entry]).clamp_(0, 255).to(torch.uint8)


def _brightness(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    return (images * table.ratio[entry]).clamp_(0, 255).to(torch.uint8)


def _color(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    return _blend(images, functional.rgb_to_grayscale(images), entry, table)


def _contrast(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    grey = functional.rgb_to_grayscale(images)
    # The sum is over integers, so that it is exact in any order.
    total = grey.sum(dim=(1, 2, 3), keepdim=True, dtype=torch.int64).to(torch.float32)
    mean = total / torch.full_like(total, grey[0].numel())  # by a number, GPUs would multiply with its reciprocal
    return _blend(images, mean, entry, table)


def _sharpness(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    if min(images.shape[-2:]) <= 2:  # no pixel has all its neighbours
        return images
    # The smoothing filter is (1 1 1; 1 5 1; 1 1 1) / 13, rounded to the nearest integer; borders stay as they are.
    wide = images.to(torch.int16)
    total = wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]
    total = total[..., :-2, :] + total[..., 1:-1, :] + total[..., 2:, :]
    total.add_(wide[..., 1:-1, 1:-1], alpha=4)
    smooth = images.clone()
    # (total + 6.5) / 13 is at least 1/26 away from an integer, so float32 truncates it safely.
    smooth[..., 1:-1, 1:-1] = ((total + 6.5) * (1 / 13)).to(torch.uint8)
    return _blend(images, smooth, entry, table)


def _posterize(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    return images & table.mask[entry]


def _solarize(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    return torch.where(images >= table.threshold[entry], ~images, images)


def _autocontrast(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    stretched: Tensor = functional.autocontrast(images)
    return stretched


def _equalize(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    # v2 counts the histograms of all images at once and agrees with v1, which goes through the images one by one.
    equalized: Tensor = functional_v2.equalize(images)
    return equalized


def _invert(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    return ~images


_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
_ENHANCING = ("Brightness", "Color", "Contrast", "Sharpness")

# The catalogue: which function does which operations. Identity, at position 0, is never called.
KERNELS: tuple[tuple[tuple[str, ...], Kernel | None], ...] = (
    (("Identity",), None),
    (_GEOMETRIC, _move),
    (("Brightness",), _brightness),
    (("Color",), _color),
    (("Contrast",), _contrast),
    (("Sharpness",), _sharpness),
    (("Posterize",), _posterize),
    (("Solarize",), _solarize),
    (("AutoContrast",), _autocontrast),
    (("Equalize",), _equalize),
    (("Invert",), _invert),
)
_POSITION = {name: position for position, (names, _) in enumerate(KERNELS) for name in names}


def position(operation: str) -> int:
    """The position of an operation in ``KERNELS``; raises ``KeyError`` for an unknown one."""
    return _POSITION[operation]


def magnitude(operation: str, level: int, levels: int, size: int) -> tuple[float, bool]:
    """Look up the magnitude of a level in torchvision's augmentation space.

    Args:
        operation: name of the operation.
        level: magnitude bin, in ``range(levels)``; without effect on operations that have no magnitude.
        levels: number of bins, 31 for RandAugment and 10 for AutoAugment.
        size: side of the image in pixels, to which translations are proportional.

    Returns:
        The magnitude (slope, pixels, degrees, change of the enhancement factor, bits or grey level) and whether its
        sign is drawn.

    """
    if operation in _GEOMETRIC or operation in _ENHANCING:
        largest = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}.get(operation, 0.9)
        if operation.startswith("Translate"):
            largest = 150.0 / 331.0 * size
        # torchvision rounds to float32, which decides the last bit of a factor.
        return float(torch.linspace(0.0, largest, levels)[level]), True
    if operation == "Solarize":
        return float(torch.linspace(255.0, 0.0, levels)[level]), False
    if operation == "Posterize":
        return float(8 - (torch.tensor(level) / ((levels - 1) / 4)).round()), False
    return 0.0, False


@lru_cache(maxsize=1024)
def index_map(operation: str, value: float, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Trace where a geometric operation takes its pixels from.

    Returns:
        On the CPU, int64 ``[H·W]``, for each output pixel the input pixel it is copied from (0 if there is none), and
        uint8 ``[H·W]``, 1 where there is one.

    """
    # torchvision itself moves an image of pixel numbers, counted from 1 because 0 is the fill. It must be float32: the
    # sampling grid takes the image's float type, and uint8 images get float32. Exact below 2²⁴ pixels.
    image = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, height, width)
    shear, shift = [0.0, 0.0], [0, 0]
    if operation == "Rotate":
        moved = functional.rotate(image, value)
    else:
        axis = 0 if operation.endswith("X") else 1
        if operation.startswith("Shear"):
            shear[axis] = math.degrees(math.atan(value))
        else:
            shift[axis] = int(value)
        # AutoAugment shears about the top left corner.
        center = [0, 0] if operation.startswith("Shear") else None
        moved = functional.affine(image, angle=0.0, translate=shift, scale=1.0, shear=shear, center=center)
    number = moved.view(-1).to(torch.int64)
    return (number - 1).clamp_(min=0), (number > 0).to(torch.uint8)


@lru_cache(maxsize=64)
def compile_table(entries: tuple[Entry, ...], height: int, width: int, device: torch.device, fill: int = 0) -> Table:
    """Turn pairs of an operation and a signed magnitude into tensors on ``device`` for images of ``[H, W]`` pixels.

    ``fill`` is the grey level of pixels that come from outside the image.

    Raises:
        KeyError: an operation has an unknown name.

    """
    moves = {entry: row for row, entry in enumerate(dict.fromkeys(e for e in entries if e[0] in _GEOMETRIC))}
    maps = [index_map(operation, value, height, width) for operation, value in moves]

    def per_entry(values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1, 1)

    factors = [1.0 + value if operation in _ENHANCING else 1.0 for operation, value in entries]
    thresholds = [math.ceil(value) if operation == "Solarize" else 0 for operation, value in entries]
    masks = [256 - 2 ** (8 - int(value)) if operation == "Posterize" else 255 for operation, value in entries]
    empty = torch.empty(0, height * width)
    inside = torch.stack([inside for _, inside in maps]) if maps else empty.to(torch.uint8)
    return Table(
        kinds=tuple(sorted({_POSITION[operation] for operation, _ in entries})),
        kernel=torch.tensor([_POSITION[operation] for operation, _ in entries], device=device),
        row=torch.tensor([moves.get(entry, 0) for entry in entries], device=device),
        source=(torch.stack([source for source, _ in maps]) if maps else empty.to(torch.int64)).to(device),
        inside=inside.to(device),
        outside=((1 - inside) * fill).to(device) if fill else None,
        ratio=per_entry(factors, torch.float32),
        rest=per_entry([1.0 - factor for factor in factors], torch.float32),
        threshold=per_entry(thresholds, torch.uint8),
        mask=per_entry(masks, torch.uint8),
    )


def _everywhere(images: Tensor, kernel: Tensor, entry: Tensor, table: Table) -> Tensor:
    """As ``apply``, every operation on all images; ``kernel``: int64 ``[N]``, which of them counts."""
    out, drawn = images.clone(), kernel.view(-1, 1, 1, 1)
    for number, (_, function) in enumerate(KERNELS):
        if function is not None and number in table.kinds:
            out = torch.where(drawn == number, function(images, entry, table), out)
    return out


def apply(images: Tensor, entry: Tensor, table: Table) -> Tensor:
    """Do to each image what its entry of the table says.

    Args:
        images: uint8 ``[N, 3, H, W]`` of the table's size, on its device.
        entry: int64 ``[N]`` in ``range(V)``.
        table: what may happen.

    Returns:
        A new tensor, uint8 ``[N, 3, H, W]``.

    """
    kernel = table.kernel[entry]
    if must_not_wait(images):
        return _everywhere(images, kernel, entry, table)
    order = kernel.argsort(stable=True)
    counts: list[int] = kernel.bincount(minlength=len(KERNELS)).tolist()
    grouped, entry = images.index_select(0, order), entry[order]
    start = 0
    for (_, function), count in zip(KERNELS, counts, strict=True):
        if function is not None and count:
            group = grouped[start : start + count]
            group.copy_(function(group, entry[start : start + count], table))
        start += count
    return torch.empty_like(grouped).index_copy_(0, order, grouped)
