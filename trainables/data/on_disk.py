"""Images that stay on disk and are read when they are asked for.

They lie decoded in one ``.npy`` file of uint8 rows (``MappedImages``), or encoded in files of their own, in Parquet files or in
a pack (``Contents``), from which ``EncodedImages`` decodes them to the same pixels.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.data.source import BrokenImage, Images, Labels, as_pixels, open_picture, resized
from trainables.errors import DataError
from trainables.files import encodable, raw

if TYPE_CHECKING:
    from PIL.Image import Image

    from trainables.config import Resize

_log = logging.getLogger(__name__)
T = TypeVar("T")


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

    version: str  # what tells these contents from others of the same names; empty where names do

    def __len__(self) -> int:
        """How many."""

    def name(self, number: int) -> str:
        """What one of them is known by, wherever the set lies."""

    def where(self, number: int) -> str:
        """What a message calls one of them."""

    def content(self, number: int) -> bytes:
        """One of them as it is encoded; raises ``DataError`` naming it."""

    def sizes(self, part: str) -> str:
        """A hash of how many bytes each has; raises ``DataError`` naming the ``part`` and those that are not there."""


class Files:
    """Images in files of their own, under paths below a folder."""

    version = ""

    def __init__(self, folder: Path, paths: Iterable[str]) -> None:
        """Paths as bytes in one array: half a million of them are sent to every trial.

        Raises ``DataError`` for a path that is not UTF-8.
        """
        paths = list(paths)
        for path in paths:
            if not encodable(path):
                raise DataError(f"{folder}: the file name {raw(path)} is not UTF-8; rename it")
        self.folder, self.paths = folder, np.asarray([path.encode() for path in paths])

    def __len__(self) -> int:
        """How many."""
        return len(self.paths)

    def name(self, number: int) -> str:
        """The path below the folder."""
        return bytes(self.paths[number]).decode()

    def where(self, number: int) -> str:
        """The path."""
        return str(self.folder / self.name(number))

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
    return hashlib.sha256(np.asarray(sizes, np.int64).tobytes()).hexdigest()


# By place among the images asked for: numbers of those that may stand in for it, of which the first that is readable does.
StandIns = Callable[[int], Iterator[int]]


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images, decoded whenever they are indexed, with the same pixels as a map of them has."""

    contents: Contents
    resize: Resize

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
        return self.squares(numbers) if numbers.ndim else self.squares(numbers[None])[0]

    def squares(self, numbers: NDArray[np.int64], stand_ins: StandIns | None = None) -> Images:
        """Images as they are kept, ``[n, 3, H, W]``; raises ``DataError`` naming one that cannot be read."""
        out = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def decode(place: int) -> None:
            out[place] = as_pixels(resized(self._picture(numbers, place, stand_ins), self.resize))

        each(decode, len(numbers))
        return out

    def pictures(self, numbers: NDArray[np.int64], stand_ins: StandIns | None = None) -> list[Image]:
        """Whole pictures of whatever sizes; raises ``DataError`` naming one that cannot be read."""
        return each(lambda place: self._picture(numbers, place, stand_ins), len(numbers))

    def _picture(self, numbers: NDArray[np.int64], place: int, stand_ins: StandIns | None) -> Image:
        try:
            return self._open(int(numbers[place]))
        except BrokenImage as error:
            if stand_ins is None:
                raise
            broken = error
        for number in stand_ins(place):
            try:
                picture = self._open(number)
            except BrokenImage:
                continue
            _log.warning("%s: %s stands in for it", broken, self.contents.name(number))
            return picture
        raise DataError(f"{broken}: nor is there a readable training image of its class")

    def _open(self, number: int) -> Image:
        least = self.resize.size if self.resize.draft else None
        return open_picture(self.contents.content(number), self.contents.where(number), least)


def each(work: Callable[[int], T], count: int) -> list[T]:
    """``work`` of 0, 1, … by the decoders; nothing of it goes on once this has returned or raised."""
    futures = [decoders().submit(work, place) for place in range(count)]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
        wait(futures)


@cache
def decoders() -> ThreadPoolExecutor:
    """Of this process: Pillow decodes and resizes without holding the interpreter."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Rows:
    """Some images of those on disk, in an order: reads them only when they are indexed."""

    images: MappedImages | EncodedImages
    index: Any  # int64 [N]
    labels: Labels | None = None  # [N], if the next of these images of its class is to stand in for one that is broken

    @property
    def shape(self) -> tuple[int, ...]:
        """``[N, 3, H, W]``."""
        return (len(self.index), *self.images.shape[1:])

    def __len__(self) -> int:
        """How many images."""
        return len(self.index)

    def __getitem__(self, at: Any) -> Images:
        """Copies of the images at these positions."""
        if isinstance(self.images, MappedImages):
            return np.array(self.images[self.index[at]])
        places = np.arange(len(self))[at]
        found = self.images.squares(self.index[np.atleast_1d(places)], self._stand_ins(np.atleast_1d(places)))
        return found if places.ndim else found[0]

    def pictures(self, at: Any) -> list[Image]:
        """As ``EncodedImages.pictures``."""
        assert isinstance(self.images, EncodedImages)  # a rule of `longtail.split`
        return self.images.pictures(self.index[at], self._stand_ins(at))

    def _stand_ins(self, places: NDArray[np.int64]) -> StandIns | None:
        labels = self.labels
        if labels is None:
            return None

        def following(place: int) -> Iterator[int]:
            mine = int(places[place])
            same = np.flatnonzero(labels == labels[mine])
            for other in np.roll(same, -1 - int(np.searchsorted(same, mine)))[:-1].tolist():
                yield int(self.index[other])

        return following


def take(
    images: Images | Rows | MappedImages | EncodedImages, index: Any, labels: Labels | None = None
) -> Images | Rows:
    """Images by number: copied, or of those on disk remembered; ``labels`` as those of ``Rows``."""
    if isinstance(images, Rows):
        mine = images.labels[index] if images.labels is not None else None
        return Rows(images.images, images.index[index], mine)
    return Rows(images, index, labels) if isinstance(images, MappedImages | EncodedImages) else images[index]
