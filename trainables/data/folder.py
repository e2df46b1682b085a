"""Image folders: ``<root>/<path>/{train,test}/<class name>/<image>``; ``val`` is the official validation split."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.kept import keep
from trainables.data.on_disk import Files
from trainables.data.source import Labels, Part, Source, decode, make_source, stack
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig
    from trainables.data.kept import Kept

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}


def read(config: DataConfig, root: Path, images: Kept = "map") -> Source:
    """Classes are the sub-folders of ``train`` in sorted order; raises ``DataError``.

    Images are read into memory, or kept as asked if they are to stay on disk.
    """
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
    digest = hashlib.sha256(repr(names).encode())

    def part(name: str, place: str) -> Part:
        files, labels = _listed(folder / place, names)
        if not config.on_disk:
            decoded = [decode(_content(file), config.resize, str(file)) for file in files]
            return Part(stack(decoded, str(folder / place)), labels)
        paths = [str(file.relative_to(folder)) for file in files]
        found, content = keep(Files(folder, paths), config, images, folder, name)
        digest.update(content.encode() + labels.tobytes())
        return Part(found, labels)

    train, test = part("train", "train"), part("test", test_name)
    validation = part("validation", "val") if has_validation else None
    fingerprint = digest.hexdigest()[:16] if config.on_disk else None
    return make_source(config.path, names, train, test, validation=validation, fingerprint=fingerprint)


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


def _listed(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], Labels]:
    """The image files of a part and their labels, class by class."""
    there = {d.name for d in folder.iterdir() if is_folder(d)}
    strangers = sorted(there - set(names))
    if strangers:
        raise DataError(f"{folder}: class folder {strangers[0]!r} is not in the training split")
    found: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        # Listed, not globbed: a glob takes a folder that this user may not read for an empty one.
        listed = (folder / name).iterdir() if name in there else ()
        files = sorted(f for f in listed if f.suffix.lower() in SUFFIXES)
        found += files
        labels += [label] * len(files)
    if not found:
        raise DataError(f"{folder}: no images ({', '.join(sorted(SUFFIXES))})")
    return found, np.asarray(labels, np.int64)
