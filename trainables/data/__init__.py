"""Data: sources of labelled images, and the long-tailed training set that a trial makes of one.

``SOURCES`` is the catalogue of what reads a source from disk; it is torch-free, since configurations are checked against it. A
source is read once (it is the same for all trials of a sweep) and ``longtail.split`` draws each trial's images from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainables import catalogue
from trainables.errors import DataError
from trainables.files import shown

if TYPE_CHECKING:
    from trainables.config import DataConfig, Resize
    from trainables.data.kept import Kept
    from trainables.data.source import Source

# name -> dotted path of (DataConfig, data root) -> Source; where images stay on disk it is also told how they are kept
SOURCES: dict[str, str] = {
    "digits": "trainables.data.digits.read",
    "cifar10": "trainables.data.cifar.read",
    "cifar100": "trainables.data.cifar.read",
    "imagenet_lt": "trainables.data.lists.read",
    "places_lt": "trainables.data.lists.read",
    "inaturalist2018": "trainables.data.lists.read",
    "parquet": "trainables.data.parquet.read",
    "folder": "trainables.data.folder.read",
}
LARGE = ("imagenet_lt", "places_lt", "inaturalist2018")  # stay on disk, as those with `on_disk: true` do


def read_source(config: DataConfig, root: Path, images: Kept = "map") -> Source:
    """Read a data set below ``root`` as uint8 arrays; ``images`` that stay on disk are kept as asked (see ``kept``).

    Raises ``DataError`` if it is missing, broken or unreadable.
    """
    read = catalogue.load(SOURCES[config.name])
    try:
        source: Source = read(config, root, images) if config.stays_on_disk else read(config, root)
    except OSError as error:  # a folder of another user, a disk that fails
        place = error.filename or root
        raise DataError(
            f"{config.path or config.name}: {shown(place)} is unreadable ({error.strerror or error}); make it readable "
            "(`chmod -R u+rX` as its owner), or name another data root with --data-root or LTSEARCH_DATA"
        ) from None
    return source


class SourceKey(NamedTuple):
    """What makes one source differ from another."""

    name: str
    path: str | None
    resize: Resize | None
    on_disk: bool
    unreadable: str


def source_key(config: DataConfig) -> SourceKey:
    """Two trials with the same key share one source."""
    return SourceKey(config.name, config.path, config.resize, config.on_disk, config.unreadable)
