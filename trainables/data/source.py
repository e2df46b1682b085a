"""A source: all images of a data set as uint8 arrays, with labels, class names and a fingerprint of the content.

Legend: ``N`` images, ``H``, ``W`` pixels, ``C`` classes. Arrays are NumPy, so that they lie in shared memory once for all
processes of a machine and need no torch to be read.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables.errors import DataError
from trainables.files import encodable, raw

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainables.config import Resize

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Images uint8 ``[N, 3, H, W]`` and labels int64 ``[N]``. Those of large sets stay on disk and are read when indexed."""

    images: Any
    labels: Labels


@dataclass(frozen=True)
class Source:
    """A data set as it lies on disk; ``validation`` is the official one, where there is one."""

    name: str
    class_names: tuple[str, ...]
    train: Part
    test: Part
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    validation: Part | None = None


def make_source(
    name: str,
    class_names: tuple[str, ...],
    train: Part,
    test: Part,
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
    std: tuple[float, float, float] = (0.229, 0.224, 0.225),
    validation: Part | None = None,
    fingerprint: str | None = None,
) -> Source:
    """Check labels and classes and take the fingerprint, unless it is given; raises ``DataError`` naming what is wrong."""
    sizes = {tuple(part.images.shape[2:]): None for part in (train, test, validation) if part is not None}
    if len(sizes) > 1 or any(height != width for height, width in sizes):
        found = " and ".join(f"{width}×{height}" for height, width in sizes)
        raise DataError(
            f"{name}: images are {found} pixels; they must be square and of one size: set data.image_size to resize them"
        )
    for class_name in class_names:
        if not encodable(class_name):
            raise DataError(
                f"{name}: the class name {raw(class_name)} is not UTF-8, which records and reports are written in; "
                "rename it"
            )
    classes = len(class_names)
    for part_name, part in (("train", train), ("test", test), ("validation", validation)):
        if part is None:
            continue
        if len(part.labels) == 0:
            raise DataError(f"{name}: the {part_name} split has no images")
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= classes))
        if len(wrong):
            raise DataError(
                f"{name}: {part_name} image {wrong[0]} has label {part.labels[wrong[0]]}; "
                f"labels must lie in 0..{classes - 1} for the {classes} classes that are declared"
            )
    empty = [class_names[j] for j in range(classes) if not (train.labels == j).any()]
    if empty:
        raise DataError(
            f"{name}: {len(empty)} of {classes} classes have no training images: {', '.join(map(repr, empty[:5]))}"
            f"{' …' if len(empty) > 5 else ''}; remove them from the class names or add images"
        )
    if fingerprint is not None:
        return Source(name, class_names, train, test, fingerprint, mean, std, validation)
    digest = hashlib.sha256(repr(class_names).encode())
    for part in (train, test, validation):
        if part is not None:
            digest.update(repr(part.images.shape).encode())
            digest.update(np.ascontiguousarray(part.images).data)
            digest.update(np.ascontiguousarray(part.labels).data)
    return Source(name, class_names, train, test, digest.hexdigest()[:16], mean, std, validation)


class BrokenImage(DataError):
    """Content that is not a readable image."""


def decode(content: bytes, resize: Resize | None, where: str) -> Images:
    """An encoded image as uint8 ``[3, H, W]``, resized where asked.

    Raises ``BrokenImage`` naming ``where`` if it is not an image.
    """
    picture = open_picture(content, where, resize.size if resize is not None and resize.draft else None)
    return as_pixels(picture if resize is None else resized(picture, resize))


def open_picture(content: bytes, where: str, least: int | None = None) -> Image:
    """An encoded image as a Pillow image of 8-bit RGB, of a JPEG no more than has ``least`` pixels a side (libjpeg's scaling).

    Raises ``BrokenImage`` naming ``where`` if it is none.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            if least is not None:
                image.draft(None, (least, least))
            return _eight_bits(image, where).convert("RGB")
    except DataError:
        raise
    except Exception as error:
        raise BrokenImage(f"{where}: not a readable image ({error}); replace or remove it") from None


def as_pixels(picture: Image) -> Images:
    """A Pillow image of RGB as uint8 ``[3, H, W]``."""
    return np.asarray(picture).transpose(2, 0, 1)


def _eight_bits(image: Image, where: str) -> Image:
    """A Pillow image with 8 bits a value: Pillow itself cuts 16-bit greys off at 255, and leaves almost nothing but white.

    Raises ``DataError`` for values of which nothing says what is white (32-bit integers, floating point).
    """
    from PIL import Image

    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        raise DataError(
            f"{where}: its pixels are {kind} (Pillow's mode {image.mode!r}), of which nothing says what is white; convert it "
            "to 8 bits a channel"
        )
    return image


def stack(images: list[Images], where: str) -> Images:
    """One ``[N, 3, H, W]`` array; raises ``DataError`` if the sizes differ."""
    shapes = {image.shape for image in images}
    if len(shapes) > 1:
        some = ", ".join(f"{s[2]}×{s[1]}" for s in sorted(shapes)[:4])
        raise DataError(f"{where}: images have different sizes ({some} …); set data.image_size")
    return np.stack(images)


def resized(image: Image, resize: Resize) -> Image:
    """A Pillow image as a square of its new size."""
    from PIL import Image

    width, height = image.size
    if (width, height) == (resize.size, resize.size):
        return image
    filtered = Image.Resampling[resize.interpolation.upper()]
    if resize.aspect == "squash":
        return image.resize((resize.size, resize.size), filtered)
    # torchvision's Resize(size), which makes the longer side a whole number by truncation, and CenterCrop(size).
    shorter = min(width, height)
    width, height = int(resize.size * width / shorter), int(resize.size * height / shorter)
    left, top = round((width - resize.size) / 2), round((height - resize.size) / 2)
    return image.resize((width, height), filtered).crop((left, top, left + resize.size, top + resize.size))


def resize_all(images: Images, resize: Resize | None) -> Images:
    """Resize ``[N, 3, H, W]`` where asked."""
    if resize is None or images.shape[2:] == (resize.size, resize.size):
        return images
    from PIL import Image

    out = np.empty((len(images), 3, resize.size, resize.size), np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
        out[i] = np.asarray(resized(picture, resize)).transpose(2, 0, 1)
    return out


def as_metadata_mapping(value: Any) -> dict[str, Any]:
    """``value`` if it is a mapping, else an empty one: schema metadata is free text written by strangers."""
    return value if isinstance(value, dict) else {}
