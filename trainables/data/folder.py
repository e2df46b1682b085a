"""Image folders: ``<root>/<path>/{train,test}/<class name>/<image>``; ``val`` is the official validation split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.source import Images, Part, Source, decode, make_source, stack
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def read(config: DataConfig, root: Path) -> Source:
    """Classes are the sub-folders of ``train`` in sorted order; raises ``DataError``."""
    assert config.path is not None  # a rule of DataConfig
    folder = root / config.path
    if not (folder / "train").is_dir():
        raise DataError(
            f"{config.path}: no folder {folder / 'train'}; expected {folder}/train/<class>/<image> and {folder}/test/… "
            "(name another data root with --data-root or LTSEARCH_DATA)"
        )
    names = tuple(sorted(d.name for d in (folder / "train").iterdir() if d.is_dir()))
    if not names:
        raise DataError(f"{folder / 'train'}: no class folders")
    test_name = "test" if (folder / "test").is_dir() else "val"
    if not (folder / test_name).is_dir():
        raise DataError(f"{config.path}: neither {folder / 'test'} nor {folder / 'val'} is there")
    has_validation = test_name == "test" and (folder / "val").is_dir()
    return make_source(
        config.path,
        names,
        _read_part(folder / "train", names, config.stored_size),
        _read_part(folder / test_name, names, config.stored_size),
        validation=_read_part(folder / "val", names, config.stored_size) if has_validation else None,
    )


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}); replace or remove it") from None


def _read_part(folder: Path, names: tuple[str, ...], size: int | None) -> Part:
    strangers = sorted(d.name for d in folder.iterdir() if d.is_dir() and d.name not in names)
    if strangers:
        raise DataError(f"{folder}: class folder {strangers[0]!r} is not in the training split")
    images: list[Images] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        files = sorted(f for f in (folder / name).glob("*") if f.suffix.lower() in SUFFIXES)
        images += [decode(_content(f), size, str(f)) for f in files]
        labels += [label] * len(files)
    if not images:
        raise DataError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    return Part(stack(images, str(folder)), np.asarray(labels, np.int64))
