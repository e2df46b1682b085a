"""How the images of a set that does not fit into memory are kept: a map of decoded ones, their files, or a pack of them.

All three give the same pixels and the same fingerprint, so that a cell may be trained from any of them. Maps and packs are made
once, below the set's folder; a run that is killed leaves what it made to the next one, and two runs do not make it twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainables.data import pack
from trainables.data.on_disk import Contents, EncodedImages, MappedImages, open_images
from trainables.data.pack import Pack
from trainables.errors import DataError
from trainables.files import write_text

if TYPE_CHECKING:
    from trainables.config import DataConfig

Kept = Literal["map", "files", "pack"]
STEP = 1024  # images that are decoded at a time, and after which a run that was killed goes on


NO_WINDOWS = (
    "data.aspect = whole cuts out of whole pictures, which a map has not: set resources.images to files or pack"
)


def keep(
    contents: Contents, config: DataConfig, images: Kept, folder: Path, part: str
) -> tuple[MappedImages | EncodedImages, str]:
    """The images of a part, kept as asked below the set's ``folder``, and a hash of their names and sizes.

    Pictures are not looked at for the hash. Raises ``DataError`` for images that are not there, cannot be decoded or kept.
    """
    resize = config.resize
    if resize is None:
        raise DataError(
            f"{config.path or config.name}: its images have different sizes; set data.image_size (and data.store_size)"
        )
    if images == "map" and config.whole:
        raise DataError(NO_WINDOWS)
    if images == "map" and config.unreadable == "skip":
        raise DataError(
            "data.unreadable = skip is decided image by image while training, and a map is decoded before: set "
            "resources.images to files or pack"
        )
    names = [contents.name(number) for number in range(len(contents))]
    known = [contents.version] if contents.version else []
    listed = _hash([resize.name, *known, *names])
    if images == "map":
        target = folder / f"cache-{resize.name}" / f"{part}.npy"
        sizes = _mapped(EncodedImages(contents, resize), target, part, listed)
        return open_images(target), f"{listed}{sizes}"
    if images == "pack":
        contents = _packed(contents, folder / "pack", part, _hash([*known, *names]))
    return EncodedImages(contents, resize), f"{listed}{contents.sizes(part)}"


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _alone(target: Path, what: str) -> Iterator[None]:
    """Only one run makes this; raises ``DataError`` if it cannot be kept."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise DataError(
            f"{target}: {what} cannot be kept there ({error.strerror or error}); make room, copy the data set to a folder "
            "that can be written, or let images be decoded from files of their own, if they have them, with "
            "`resources.images: files`"
        ) from None


def _packed(contents: Contents, folder: Path, part: str, listed: str) -> Pack:
    """The pack, once all of it is there."""
    if (found := pack.find(folder, part, listed, len(contents))) is not None:
        return found
    sizes = contents.sizes(part)
    with _alone(folder / part, f"the pack of {len(contents)} images"):
        found = pack.find(folder, part, listed, len(contents))
        return found or pack.make(contents, folder, part, pack.Stamp(listed, sizes, len(contents)))


def _mapped(images: EncodedImages, target: Path, part: str, listed: str) -> str:
    """See to it that ``target`` holds the images; returns the hash of what they were decoded from."""
    stamp = target.with_suffix(".json")
    known = _stamp(stamp, target, listed)
    if known is not None:
        return known
    sizes = images.contents.sizes(part)
    with _alone(target, f"the decoded images ({np.prod(images.shape) / 2**30:.1f} GiB)"):
        known = _stamp(stamp, target, listed)
        if known is not None:
            return known
        _decode_all(images, target, listed)
        write_text(stamp, json.dumps({"listed": listed, "sizes": sizes}))
    return sizes


def _stamp(stamp: Path, target: Path, listed: str) -> str | None:
    """What is known of what ``target`` was made of, if it holds this list's images."""
    try:
        known = json.loads(stamp.read_text())
        return str(known["sizes"]) if known["listed"] == listed and target.is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _decode_all(images: EncodedImages, target: Path, listed: str) -> None:
    """Decode into a file beside the target, which a run that is killed leaves to the next one."""
    part, progress = target.with_suffix(".part"), target.with_suffix(".part.json")
    done = _decoded(part, progress, listed, images.shape)
    if not done:
        progress.unlink(missing_ok=True)  # it speaks of what is written over now
    rows = np.lib.format.open_memmap(part, "r+" if done else "w+", np.uint8, None if done else images.shape)
    with open(part, "r+b") as file:  # where a full disk says so: in a page that is written to, it ends the process
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    for start in range(done, len(images), STEP):
        rows[start : start + STEP] = images[start : start + STEP]
        rows.flush()
        write_text(progress, json.dumps({"listed": listed, "done": min(start + STEP, len(images))}))
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
