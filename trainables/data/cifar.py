"""CIFAR-10 and CIFAR-100: torchvision's archives, or Parquet in ``<root>/cifar10``; downloaded when neither is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    download = not extracted.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        train = cls(str(root), train=True, download=download)
        test = cls(str(root), train=False, download=False)
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
