"""Images that stay on disk and are read when they are asked for: from one ``.npy`` file of uint8 rows, or each from its own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.data.source import Images, decode
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import Resize


class MappedImages(np.memmap):
    """A read-only ``np.memmap`` of a whole file that is sent to other processes as its path, not as its content."""

    def __array_finalize__(self, other: Any) -> None:
        """Views and copies are not the whole file."""
        super().__array_finalize__(other)
        self.whole = False

    def __reduce__(self) -> Any:
        """A path for the whole file; a part of it travels as an array."""
        return (open_images, (str(self.filename),)) if self.whole else np.array(self).__reduce__()


def open_images(path: str | Path) -> MappedImages:
    """Map a ``.npy`` file of uint8 ``[N, 3, H, W]``."""
    mapped: MappedImages = np.load(path, mmap_mode="r").view(MappedImages)
    mapped.whole = True
    return mapped


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images, decoded whenever they are indexed, with the same pixels as a map of them has."""

    folder: Path
    paths: tuple[str, ...]  # below the folder
    resize: Resize

    @property
    def shape(self) -> tuple[int, ...]:
        """``[N, 3, H, W]``."""
        return (len(self.paths), 3, self.resize.size, self.resize.size)

    def __len__(self) -> int:
        """How many images."""
        return len(self.paths)

    def __getitem__(self, at: Any) -> Images:
        """The images at these positions; raises ``DataError`` naming one that cannot be read."""
        numbers = np.arange(len(self.paths))[at]
        if numbers.ndim == 0:
            return decode_file(self.folder, self.paths[int(numbers)], self.resize)
        out = np.empty((len(numbers), *self.shape[1:]), np.uint8)
        found = _decoders().map(lambda i: decode_file(self.folder, self.paths[i], self.resize), numbers.tolist())
        for place, image in enumerate(found):
            out[place] = image
        return out


def decode_file(folder: Path, path: str, resize: Resize) -> Images:
    """One image ``[3, H, W]``; raises ``DataError`` naming it."""
    try:
        content = (folder / path).read_bytes()
    except OSError as error:
        raise DataError(f"{folder / path}: listed, but cannot be read ({error.strerror})") from None
    return decode(content, resize, str(folder / path))


@cache
def _decoders() -> ThreadPoolExecutor:
    """Of this process: Pillow decodes without holding the interpreter."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Rows:
    """Some images of those on disk, in an order: reads them only when they are indexed."""

    images: MappedImages | ImageFiles
    index: Any  # int64 [N]

    @property
    def shape(self) -> tuple[int, ...]:
        """``[N, 3, H, W]``."""
        return (len(self.index), *self.images.shape[1:])

    def __len__(self) -> int:
        """How many images."""
        return len(self.index)

    def __getitem__(self, at: Any) -> Images:
        """Copies of the images at these positions."""
        return np.array(self.images[self.index[at]])


def take(images: Images | Rows | ImageFiles, index: Any) -> Images | Rows:
    """Images by number: copied, or of those on disk remembered."""
    return Rows(images, index) if isinstance(images, MappedImages | ImageFiles) else images[index]
