"""Image folders: ``<root>/<path>/{train,test}/<class name>/<image>``; ``val`` is the official validation split."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.source import Images, Part, Source, decode, make_source, stack
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig, Resize

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def read(config: DataConfig, root: Path) -> Source:
    """Classes are the sub-folders of ``train`` in sorted order; raises ``DataError``."""
    assert config.path is not None  # a rule of DataConfig
    folder = root / config.path
    if not is_folder(folder / "train"):
        raise DataError(
            f"{config.path}: no folder {folder / 'train'}; expected {folder}/train/<class>/<image> and {folder}/test/… "
            "(name another data root with --data-root or LTSEARCH_DATA)"
        )
    names = tuple(sorted(d.name for d in (folder / "train").iterdir() if is_folder(d)))
    if not names:
        raise DataError(f"{folder / 'train'}: no class folders")
    test_name = "test" if is_folder(folder / "test") else "val"
    if not is_folder(folder / test_name):
        raise DataError(f"{config.path}: neither {folder / 'test'} nor {folder / 'val'} is there")
    has_validation = test_name == "test" and is_folder(folder / "val")
    return make_source(
        config.path,
        names,
        _read_part(folder / "train", names, config.resize),
        _read_part(folder / test_name, names, config.resize),
        validation=_read_part(folder / "val", names, config.resize) if has_validation else None,
    )


def is_folder(place: Path) -> bool:
    """Is it one? ``Path.is_dir`` says no, in some versions of Python, to what this user may not look at: here ``OSError``."""
    try:
        return stat.S_ISDIR(place.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}); replace or remove it") from None


def _read_part(folder: Path, names: tuple[str, ...], resize: Resize | None) -> Part:
    there = {d.name for d in folder.iterdir() if is_folder(d)}
    strangers = sorted(there - set(names))
    if strangers:
        raise DataError(f"{folder}: class folder {strangers[0]!r} is not in the training split")
    images: list[Images] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        # Listed, not globbed: a glob takes a folder that this user may not read for an empty one.
        listed = (folder / name).iterdir() if name in there else ()
        files = sorted(f for f in listed if f.suffix.lower() in SUFFIXES)
        images += [decode(_content(f), resize, str(f)) for f in files]
        labels += [label] * len(files)
    if not images:
        raise DataError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    return Part(stack(images, str(folder)), np.asarray(labels, np.int64))
