"""CIFAR-10 and CIFAR-100: torchvision's archives, or Parquet in ``<root>/cifar10``; downloaded when neither is there."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.data import parquet
from trainables.data.source import Part, Source, make_source, resize_all
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig

# The statistics of CIFAR-10, which published long-tailed recipes use for CIFAR-100 as well.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def read(config: DataConfig, root: Path) -> Source:
    """Archives first, then Parquet, then a download; raises ``DataError`` naming file, folder and alternatives."""
    from torchvision import datasets

    cls = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[config.name]
    archive, extracted = root / cls.filename, root / cls.base_folder
    folder = root / config.name
    if not archive.exists() and not extracted.exists() and any(folder.rglob("*.parquet")):
        return parquet.read_folder(config.name, folder, config.resize, MEAN, STD)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not extracted.exists():
            _extract(cls, archive, extracted)
        train, test = (cls(str(root), train=part, download=False) for part in (True, False))
    except Exception as error:  # torchvision raises RuntimeError, URLError, EOFError, tarfile and OS errors alike
        raise DataError(
            f"{config.name}: no {cls.filename} (or {cls.base_folder}/) in {root}, no Parquet files in {folder}, and the "
            f"download from {cls.url} failed ({type(error).__name__}: {error}). Put one of the three there, or name another "
            "folder with --data-root or LTSEARCH_DATA; `digits` needs no file"
        ) from None
    parts = []
    for part in (train, test):
        images = np.ascontiguousarray(part.data.transpose(0, 3, 1, 2))
        parts.append(Part(resize_all(images, config.resize), np.asarray(part.targets, np.int64)))
    return make_source(config.name, tuple(train.classes), parts[0], parts[1], MEAN, STD)


def _extract(cls: Any, archive: Path, extracted: Path) -> None:
    """The archive, downloaded if it is not there: by one of many processes, and whole or not at all when it is killed."""
    with open(extracted.with_suffix(".lock"), "a") as lock:
        with suppress(OSError):  # a file system without locks: two may do the same work
            fcntl.flock(lock, fcntl.LOCK_EX)
        if extracted.exists():
            return
        with TemporaryDirectory(dir=extracted.parent, prefix=f".{extracted.name}-") as own:
            if archive.exists():
                (Path(own) / archive.name).symlink_to(archive.absolute())
            cls(own, download=True)
            try:
                (Path(own) / extracted.name).rename(extracted)
            except OSError:
                if not extracted.exists():
                    raise
