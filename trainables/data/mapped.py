"""Images that stay on disk: one ``.npy`` file of uint8 rows, mapped into memory and read as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.source import Images


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
class Rows:
    """Some images of a mapped file, in an order: reads them only when they are indexed."""

    images: MappedImages
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


def take(images: Images | Rows, index: Any) -> Images | Rows:
    """Images by number: copied, or for a mapped file remembered."""
    return Rows(images, index) if isinstance(images, MappedImages) else images[index]
