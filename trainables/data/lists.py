"""ImageNet-LT, Places-LT and iNaturalist 2018: the published lists of ``relative/path label`` beside the images.

They do not fit into memory. Either every image is decoded once, resized and kept in ``<root>/<name>/cache-<size>/``, which
later runs map into memory, or images are decoded from their files whenever they are needed: the same pixels, for the time of
decoding instead of the room on disk. Nothing of this project was ever run on the real sets; the tests make small ones of the
same form.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.on_disk import ImageFiles, open_images
from trainables.data.source import Labels, Part, Source, make_source
from trainables.errors import DataError
from trainables.files import write_text

if TYPE_CHECKING:
    from trainables.config import DataConfig, Resize

_STEP = 1024  # images that are decoded at a time, and after which a run that was killed goes on


@dataclass(frozen=True)
class ListSet:
    """Names of a set's published lists, and where they come from."""

    train: str
    test: str
    validation: str | None
    origin: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


LISTS = {
    "imagenet_lt": ListSet(
        "ImageNet_LT_train.txt",
        "ImageNet_LT_test.txt",
        "ImageNet_LT_val.txt",
        "the OLTR repository (Liu et al., CVPR 2019)",
    ),
    "places_lt": ListSet(
        "Places_LT_train.txt", "Places_LT_test.txt", "Places_LT_val.txt", "the OLTR repository (Liu et al., CVPR 2019)"
    ),
    # Its test labels are not public: papers report the official validation split.
    "inaturalist2018": ListSet(
        "iNaturalist18_train.txt",
        "iNaturalist18_val.txt",
        None,
        "the classifier-balancing repository (Kang et al., 2020)",
        (0.466, 0.471, 0.380),  # of its own images, as published code for it has them
        (0.195, 0.194, 0.192),
    ),
}


def read(config: DataConfig, root: Path, images: str = "map") -> Source:
    """The lists of ``<root>/<name>/`` with their images below the same folder, as a ``map`` or as ``files``.

    Raises ``DataError``. The fingerprint is that of the lists and of the files' sizes: pictures are not looked at for it.
    """
    lists, folder = LISTS[config.name], root / config.name
    names = {"train": lists.train, "test": lists.test, "validation": lists.validation}
    files = {part: folder / name for part, name in names.items() if name is not None}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise DataError(
            f"{config.name}: {', '.join(missing)} not in {folder}; put the published lists (from {lists.origin}) and the "
            "images that they name there, or name another data root with --data-root or LTSEARCH_DATA"
        )
    resize = config.resize
    if resize is None:
        raise DataError(f"{config.name}: its images have different sizes; set data.image_size (and data.store_size)")
    entries = {part: _entries(file) for part, file in files.items()}
    cache = folder / f"cache-{resize.name}"
    digest = hashlib.sha256(resize.name.encode())
    parts = {}
    for part, (paths, labels) in entries.items():
        listed = hashlib.sha256("\n".join([resize.name, *paths]).encode()).hexdigest()
        if images == "map":
            sizes = _cached(folder, cache / f"{part}.npy", paths, resize, listed)
            parts[part] = Part(open_images(cache / f"{part}.npy"), labels)
        else:
            sizes = _sizes(folder, part, paths)
            parts[part] = Part(ImageFiles(folder, tuple(paths), resize), labels)
        digest.update(f"{listed}{sizes}".encode() + labels.tobytes())
    classes = 1 + max(int(part.labels.max()) for part in parts.values())
    return make_source(
        config.name,
        tuple(str(j) for j in range(classes)),
        parts["train"],
        parts["test"],
        lists.mean,
        lists.std,
        validation=parts.get("validation"),
        fingerprint=digest.hexdigest()[:16],
    )


def _sizes(folder: Path, part: str, paths: list[str]) -> str:
    """A hash of the files' sizes; raises ``DataError`` naming those that are not there."""
    sizes, absent = [], []
    for path in paths:
        try:
            sizes.append((folder / path).stat().st_size)
        except (FileNotFoundError, NotADirectoryError):
            absent.append(path)
    if absent:
        named = ", ".join(absent[:10]) + (" …" if len(absent) > 10 else "")
        raise DataError(
            f"{folder}: {len(absent)} of {len(paths)} images of the list of {part} images are not there: {named}; put them "
            "below that folder under the names that the list has"
        )
    return hashlib.sha256(np.asarray(sizes, np.int64).tobytes()).hexdigest()


def _entries(file: Path) -> tuple[list[str], Labels]:
    paths, labels = [], []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); save the list as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit() and len(label) < 10):
            raise DataError(f"{file}, line {number}: {line!r} is not `relative/path label`")
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise DataError(f"{file}: no images are listed")
    return paths, np.asarray(labels, np.int64)


def _cached(folder: Path, target: Path, paths: list[str], resize: Resize, listed: str) -> str:
    """See to it that ``target`` holds the images; returns the hash of their files' sizes. Raises ``DataError``."""
    stamp = target.with_suffix(".json")
    known = _stamp(stamp, target, listed)
    if known is not None:
        return known
    sizes = _sizes(folder, target.stem, paths)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:  # two runs do not decode the same set at once
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = _stamp(stamp, target, listed)
            if known is not None:
                return known
            _decode_all(folder, target, paths, resize, listed)
            write_text(stamp, json.dumps({"listed": listed, "sizes": sizes}))
    except OSError as error:
        raise DataError(
            f"{target}: the decoded images ({len(paths) * 3 * resize.size**2 / 2**30:.1f} GiB) cannot be kept there "
            f"({error.strerror or error}); make room, copy the data set to a folder that can be written, or let images be "
            "decoded from their files with `resources.images: files`"
        ) from None
    return sizes


def _stamp(stamp: Path, target: Path, listed: str) -> str | None:
    """What is known of the files that ``target`` was made of, if it holds this list's images."""
    try:
        known = json.loads(stamp.read_text())
        return str(known["sizes"]) if known["listed"] == listed and target.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _decode_all(folder: Path, target: Path, paths: list[str], resize: Resize, listed: str) -> None:
    """Decode into a file beside the target, which a run that is killed leaves to the next one."""
    part, progress = target.with_suffix(".part"), target.with_suffix(".part.json")
    shape = (len(paths), 3, resize.size, resize.size)
    done = _decoded(part, progress, listed, shape)
    if not done:
        progress.unlink(missing_ok=True)  # it speaks of what is written over now
    rows = np.lib.format.open_memmap(part, "r+" if done else "w+", np.uint8, None if done else shape)
    files = ImageFiles(folder, tuple(paths), resize)
    for start in range(done, len(paths), _STEP):
        rows[start : start + _STEP] = files[start : start + _STEP]
        rows.flush()
        write_text(progress, json.dumps({"listed": listed, "done": min(start + _STEP, len(paths))}))
    del rows
    target.with_suffix(".json").unlink(missing_ok=True)  # it speaks of what is replaced now
    os.replace(part, target)
    progress.unlink(missing_ok=True)


def _decoded(part: Path, progress: Path, listed: str, shape: tuple[int, ...]) -> int:
    """How many images of the same list a run before this one has decoded."""
    try:
        known = json.loads(progress.read_text())
        fits = known["listed"] == listed and np.load(part, mmap_mode="r").shape == shape
        return int(known["done"]) if fits and 0 <= int(known["done"]) <= shape[0] else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0
