"""A pack: the images of one part of a set as they are encoded, in a few Arrow files instead of a file each.

Many small files are what network file systems are slowest at; a pack is read in large pieces, can be copied to every node, and
is mapped into memory, so that what trials of one node have read is there once. Each file (``train-00000.arrow``) holds names,
sums and contents of a run of images; it is written beside and renamed, so that packing that was killed goes on after the last
whole file.
"""

from __future__ import annotations

import os
import zlib
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.data.on_disk import Contents

FILE_BYTES, WRITTEN_BYTES = (
    2**28,
    2**24,
)  # of images: after which the next file is begun, and how much is written at a time
_SCHEMA = [("name", pa.string()), ("crc32", pa.uint32()), ("image", pa.large_binary())]


class Pack:
    """The images of ``<folder>/<part>-*.arrow``, mapped. It is sent to other processes as its path."""

    def __init__(self, folder: Path, part: str) -> None:
        """Look at nothing yet."""
        self.folder, self.part = folder, part

    def __reduce__(self) -> Any:
        """Its path."""
        return (Pack, (self.folder, self.part))

    @property
    def files(self) -> list[Path]:
        """What is there of it, in order."""
        return sorted(self.folder.glob(f"{self.part}-*.arrow"))

    @cached_property
    def _tables(self) -> list[pa.Table]:
        return [_open(file) for file in self.files]

    @cached_property
    def _first(self) -> Any:
        """The number of each file's first image, and how many there are; int64 ``[files + 1]``."""
        return np.cumsum([0, *(table.num_rows for table in self._tables)])

    def __len__(self) -> int:
        """How many images are there."""
        return int(self._first[-1])

    def name(self, number: int) -> str:
        """What it was called where it came from."""
        return str(self._cell(number, "name").as_py())

    def content(self, number: int) -> bytes:
        """Raises ``DataError`` if it is not what was packed."""
        content: bytes = self._cell(number, "image").as_buffer().to_pybytes()
        if zlib.crc32(content) != self._cell(number, "crc32").as_py():
            file = self.files[self._file(number)]
            raise DataError(
                f"{file}: image {self.name(number)} is not what was packed (its sum differs); delete this file and those of "
                f"{self.part} that follow it, and they are packed again"
            )
        return content

    def sizes(self, part: str) -> str:
        """Of the images as they were packed."""
        ((_, sizes),) = self.stamps()
        return sizes

    def stamps(self) -> set[tuple[str, str]]:
        """The hashes of names and sizes that its files were made of: one pair, if they belong together."""
        found = (table.schema.metadata or {} for table in self._tables)
        return {(known.get(b"listed", b"").decode(), known.get(b"sizes", b"").decode()) for known in found}

    def _file(self, number: int) -> int:
        return int(np.searchsorted(self._first, number, side="right")) - 1

    def _cell(self, number: int, column: str) -> Any:
        file = self._file(number)
        return self._tables[file][column][int(number - self._first[file])]


def _open(file: Path) -> pa.Table:
    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Arrow file ({error}); delete it, and it is packed again") from None


def pack(contents: Contents, folder: Path, part: str, listed: str) -> None:
    """Write what is missing of a pack. Raises ``DataError`` if another list's is there, ``OSError`` if it cannot be written."""
    there, sizes = Pack(folder, part), contents.sizes(part)
    if there.files and there.stamps() != {(listed, sizes)}:
        raise DataError(
            f"{folder}: its files {part}-*.arrow are a pack of other images than those that are listed now; delete them, and "
            "the images are packed again, or put the list back that they were made of"
        )
    done, number = len(there), len(there.files)
    schema = pa.schema(_SCHEMA, metadata={"listed": listed, "sizes": sizes})
    for stale in folder.glob(f"{part}-*.part"):
        stale.unlink()
    while done < len(contents):
        target = folder / f"{part}-{number:05d}.arrow"
        unfinished = target.with_suffix(".part")
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            written = 0
            while done < len(contents) and written < FILE_BYTES:
                rows, size = _some(contents, done)
                writer.write_table(pa.table(rows, schema))
                done, written = done + len(rows["name"]), written + size
        os.replace(unfinished, target)
        number += 1


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
