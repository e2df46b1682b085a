"""Images that stay on disk and are read when they are asked for.

They lie decoded in one ``.npy`` file of uint8 rows (``MappedImages``), or encoded in files of their own, in Parquet files or in
a pack (``Contents``), from which ``EncodedImages`` decodes them to the same pixels.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.data.source import BrokenImage, Images, Labels, as_pixels, open_picture, resized
from trainables.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainables.config import Resize

_log = logging.getLogger(__name__)


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


class Contents(Protocol):
    """Encoded images by number."""

    def __len__(self) -> int:
        """How many."""

    def name(self, number: int) -> str:
        """What a message calls one of them, and what it is known by."""

    def content(self, number: int) -> bytes:
        """One of them as it is encoded; raises ``DataError`` naming it."""

    def sizes(self, part: str) -> str:
        """A hash of how many bytes each has; raises ``DataError`` naming the ``part`` and those that are not there."""


class Files:
    """Images in files of their own, under paths below a folder."""

    def __init__(self, folder: Path, paths: Iterable[str]) -> None:
        """Paths as bytes in one array: half a million of them are sent to every trial."""
        self.folder, self.paths = folder, np.asarray([path.encode() for path in paths])

    def __len__(self) -> int:
        """How many."""
        return len(self.paths)

    def name(self, number: int) -> str:
        """The path below the folder."""
        return bytes(self.paths[number]).decode()

    def content(self, number: int) -> bytes:
        """Raises ``DataError`` if the file cannot be read."""
        path = self.folder / self.name(number)
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: listed, but cannot be read ({error.strerror})") from None

    def sizes(self, part: str) -> str:
        """Of the files as they are now."""
        sizes, absent = [], []
        for number in range(len(self)):
            try:
                sizes.append((self.folder / self.name(number)).stat().st_size)
            except (FileNotFoundError, NotADirectoryError):
                absent.append(self.name(number))
        if absent:
            named = ", ".join(absent[:10]) + (" …" if len(absent) > 10 else "")
            raise DataError(
                f"{self.folder}: {len(absent)} of {len(self)} images of the list of {part} images are not there: {named}; put "
                "them below that folder under the names that the list has"
            )
        return hash_of(sizes)


def hash_of(sizes: Sequence[int]) -> str:
    """Of the sizes of all images of a part."""
    import hashlib

    return hashlib.sha256(np.asarray(sizes, np.int64).tobytes()).hexdigest()


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images, decoded whenever they are indexed, with the same pixels as a map of them has.

    ``labels`` are there if the class's next image is to stand in for one that is broken.
    """

    contents: Contents
    resize: Resize
    labels: Labels | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """``[N, 3, H, W]``."""
        return (len(self.contents), 3, self.resize.size, self.resize.size)

    def __len__(self) -> int:
        """How many images."""
        return len(self.contents)

    def __getitem__(self, at: Any) -> Images:
        """The images at these positions; raises ``DataError`` naming one that cannot be read."""
        numbers = np.arange(len(self))[at]
        if numbers.ndim == 0:
            return as_pixels(resized(self._picture(int(numbers)), self.resize))
        out = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def decode(place: int) -> None:
            out[place] = as_pixels(resized(self._picture(int(numbers[place])), self.resize))

        list(decoders().map(decode, range(len(numbers))))
        return out

    def pictures(self, numbers: NDArray[np.int64]) -> list[Image]:
        """Whole pictures of whatever sizes; raises ``DataError`` naming one that cannot be read."""
        return list(decoders().map(self._picture, numbers.tolist()))

    def _picture(self, number: int) -> Image:
        try:
            return open_picture(self.contents.content(number), self._where(number))
        except BrokenImage as error:
            if self.labels is None:
                raise
            _log.warning("%s: the next image of its class stands in for it", error)
            broken = error
        same = np.flatnonzero(self.labels == self.labels[number])
        for other in np.roll(same, -1 - int(np.searchsorted(same, number)))[:-1].tolist():
            try:
                return open_picture(self.contents.content(other), self._where(other))
            except BrokenImage:
                continue
        raise DataError(f"{broken}: nor is there a readable image of its class, {int(self.labels[number])}")

    def _where(self, number: int) -> str:
        folder = getattr(self.contents, "folder", None)
        return str(folder / self.contents.name(number)) if folder is not None else self.contents.name(number)


@cache
def decoders() -> ThreadPoolExecutor:
    """Of this process: Pillow decodes and resizes without holding the interpreter."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Rows:
    """Some images of those on disk, in an order: reads them only when they are indexed."""

    images: MappedImages | EncodedImages
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

    def pictures(self, at: Any) -> list[Image]:
        """As ``EncodedImages.pictures``."""
        assert isinstance(self.images, EncodedImages)  # data.aspect = whole has no map
        return self.images.pictures(self.index[at])


def take(images: Images | Rows | EncodedImages, index: Any) -> Images | Rows:
    """Images by number: copied, or of those on disk remembered."""
    if isinstance(images, Rows):
        return Rows(images.images, images.index[index])
    return Rows(images, index) if isinstance(images, MappedImages | EncodedImages) else images[index]
