"""Data: sources of labelled images, and the long-tailed training set that a trial makes of one.

The catalogue names what reads a source from disk. A source is read once (it is the same for all trials of a sweep) and
``split`` draws each trial's training, validation and test images from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.config import DataConfig
from trainables.data import cifar, digits, folder, lists, parquet
from trainables.data.longtail import TrialData, check_batches, split
from trainables.data.source import Source

SOURCES: dict[str, Callable[[DataConfig, Path], Source]] = {
    "digits": digits.read,
    "cifar10": cifar.read,
    "cifar100": cifar.read,
    **dict.fromkeys(lists.LISTS, lists.read),
    "parquet": parquet.read,
    "folder": folder.read,
}


def read_source(config: DataConfig, root: Path) -> Source:
    """Read a data set below ``root`` as uint8 arrays; raises ``DataError`` if it is missing or broken."""
    return SOURCES[config.name](config, root)


def source_key(config: DataConfig) -> tuple[str, str | None, int | None]:
    """Two trials with the same key share one source."""
    return config.name, config.path, config.stored_size


__all__ = ["SOURCES", "Source", "TrialData", "check_batches", "read_source", "source_key", "split"]
