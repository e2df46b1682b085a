"""A pack: the images of one part of a set as they are encoded, in a few Arrow files instead of a file each.

Many small files are what network file systems are slowest at; a pack is read in large pieces, can be copied to every node, and
is mapped into memory, so that what trials of one node have read is there once. Each file (``train-00000.arrow``) holds names,
sums and contents of a run of images, and says of which list it is and which image is its first; it is written beside and
renamed, so that packing that was killed goes on after the last whole file.
"""

from __future__ import annotations

import os
import socket
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.data.on_disk import Contents

FILE_BYTES, WRITTEN_BYTES = 2**28, 2**24  # of images: after which the next file begins, and written at a time
_SCHEMA = [("name", pa.string()), ("crc32", pa.uint32()), ("image", pa.large_binary())]


class Stamp(NamedTuple):
    """What a pack was made of: hashes of names and of sizes, and how many images."""

    listed: str
    sizes: str
    images: int


class Pack:
    """The images of ``<folder>/<part>-*.arrow``, mapped. It is sent to other processes as its path."""

    version = ""

    def __init__(self, folder: Path, part: str, stamp: Stamp) -> None:
        """Look at nothing yet: another node, where the same is expected, has files of its own."""
        self.folder, self.part, self.stamp = folder, part, stamp

    def __reduce__(self) -> Any:
        """Its path, and what is expected there."""
        return (Pack, (self.folder, self.part, self.stamp))

    @cached_property
    def _tables(self) -> list[pa.Table]:
        tables = list(_whole(self.folder, self.part, self.stamp))
        there = sum(table.num_rows for table in tables)
        if there != self.stamp.images:
            raise DataError(
                f"{self.folder} on {socket.gethostname()}: {there} of {self.stamp.images} images of the pack that this sweep "
                f"trains from are there as {self.part}-*.arrow; copy the whole folder here from where the sweep was started"
            )
        return tables

    @cached_property
    def _first(self) -> Any:
        """The number of each file's first image, and how many there are; int64 ``[files + 1]``."""
        return np.cumsum([0, *(table.num_rows for table in self._tables)])

    def __len__(self) -> int:
        """How many images."""
        return self.stamp.images

    def name(self, number: int) -> str:
        """What it was called where it came from."""
        return str(self._cell(number, "name").as_py())

    def where(self, number: int) -> str:
        """The file, and what to do about it."""
        file = _file(self.folder, self.part, self._number(number))
        return f"{file}, image {self.name(number)} (once its original is mended, delete {self.part}-*.arrow)"

    def content(self, number: int) -> bytes:
        """Raises ``DataError`` if it is not what was packed."""
        content: bytes = self._cell(number, "image").as_buffer().to_pybytes()
        if zlib.crc32(content) != self._cell(number, "crc32").as_py():
            file = _file(self.folder, self.part, self._number(number))
            raise DataError(
                f"{file}: image {self.name(number)} is not what was packed (its sum differs); delete this file, and it is "
                "packed again"
            )
        return content

    def sizes(self, part: str) -> str:
        """Of the images as they were packed."""
        return self.stamp.sizes

    def _number(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _cell(self, number: int, column: str) -> Any:
        file = self._number(number)
        return self._tables[file][column][int(number - self._first[file])]


def find(folder: Path, part: str, listed: str, count: int) -> Pack | None:
    """The pack of a list, if all of it is there. Raises ``DataError`` if another list's is, or what is there is broken."""
    first = _file(folder, part, 0)
    if not first.is_file():
        return None
    known = _known(_open(first))
    if known.get("listed") != listed:
        raise DataError(
            f"{folder}: its files {part}-*.arrow are a pack of other images than those that are listed now; delete them, and "
            "the images are packed again, or put the list back that they were made of"
        )
    stamp = Stamp(listed, known.get("sizes", ""), count)
    whole = sum(table.num_rows for table in _whole(folder, part, stamp)) == count
    return Pack(folder, part, stamp) if whole else None


def make(contents: Contents, folder: Path, part: str, stamp: Stamp) -> Pack:
    """Write what is missing of a pack: all that follows its first gap. Raises ``OSError`` if it cannot be written."""
    there = list(_whole(folder, part, stamp))
    done, number = sum(table.num_rows for table in there), len(there)
    del there
    for stale in folder.glob(f"{part}-*.*"):
        if stale.suffix == ".part" or (stale.suffix == ".arrow" and int(stale.stem.rpartition("-")[2]) >= number):
            stale.unlink()
    while done < stamp.images:
        known = {"listed": stamp.listed, "sizes": stamp.sizes, "first": str(done)}
        schema = pa.schema(_SCHEMA, metadata=known)
        target = _file(folder, part, number)
        unfinished = target.with_suffix(".part")
        with open(unfinished, "wb") as sink:
            with pa.ipc.new_file(sink, schema) as writer:
                written = 0
                while done < stamp.images and written < FILE_BYTES:
                    rows, size = _some(contents, done)
                    writer.write_table(pa.table(rows, schema))
                    done, written = done + len(rows["name"]), written + size
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(unfinished, target)
        number += 1
    return Pack(folder, part, stamp)


def _file(folder: Path, part: str, number: int) -> Path:
    return folder / f"{part}-{number:05d}.arrow"


def _open(file: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Arrow file ({error}); delete it, and it is packed again") from None


def _known(table: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode(errors="replace") for key, value in (table.schema.metadata or {}).items()}


def _whole(folder: Path, part: str, stamp: Stamp) -> Iterator[pa.Table]:
    """The files that are there without a gap, as far as they are of this list and follow one another."""
    number = first = 0
    while (file := _file(folder, part, number)).is_file():
        table = _open(file)
        if _known(table) != {"listed": stamp.listed, "sizes": stamp.sizes, "first": str(first)}:
            return
        yield table
        number, first = number + 1, first + table.num_rows


def _some(contents: Contents, first: int) -> tuple[dict[str, list[Any]], int]:
    """The columns of the images from ``first`` on, as many as are written at a time, and their bytes."""
    rows: dict[str, list[Any]] = {name: [] for name, _ in _SCHEMA}
    size = 0
    for number in range(first, len(contents)):
        content = contents.content(number)
        for column, value in zip(rows.values(), (contents.name(number), zlib.crc32(content), content), strict=True):
            column.append(value)
        size += len(content)
        if size >= WRITTEN_BYTES:
            break
    return rows, size
