"""Cells of an export, put back into a store: a sweep goes on from what a colleague, or a machine that is gone, has trained.

An export (``python -m analysis.report STUDY --export``) has the records of a sweep and what its report reads of single images,
but no weights: a cell that another one starts from is trained again.
"""

from __future__ import annotations

import lzma
import re
import time
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import DEAD_SECONDS
from ltsearch.store.records import FINAL_ARTIFACT, RECORD_ARTIFACT, SETTLED, CellRecord, Status
from ltsearch.store.validation import BadRecord, parse
from trainables.errors import UserError
from trainables.files import RemotePath, write_atomic

_CELL = re.compile(rf"cells/([^/]+)/{re.escape(RECORD_ARTIFACT)}")
# What reading a member can raise: damaged, cut off, of an unknown compression, encrypted.
_BROKEN = (BadRecord, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, NotImplementedError, RuntimeError)


class Restored(NamedTuple):
    """How many cells of an export were put into the store, were there already, and are left out."""

    new: int
    there: int
    left_out: dict[str, str]  # cell -> why


def restore(path: Path, store: CellStore) -> Restored:
    """Put the settled cells of an export into a store; what is there stays as it is.

    Left out are cells without a result (not ended, or out of memory), those that are broken or that this version
    would train otherwise, and those that a sweep is training now. (One that begins with a cell in the moment in which that is
    restored trains it to its end, and has the same.)

    Raises ``UserError`` if the file is no export or the store cannot be written to.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not the export of a sweep ({getattr(error, 'strerror', None) or error}); "
            "`python -m analysis.report STUDY --export` writes one"
        ) from None
    new, there, left_out = 0, 0, {}
    with archive:
        cells = sorted(found[1] for name in archive.namelist() if (found := _CELL.fullmatch(name)))
        if not cells:
            raise UserError(f"{path}: no trials in it; `python -m analysis.report STUDY --export` writes an export")
        store.check_writable()
        claims = _watched(store, cells)
        for cell in cells:
            known = store.read(cell)
            if known is not None and known.status in SETTLED:
                there += 1
                continue
            if other := claims.other(cell):
                left_out[cell] = f"{other} is training it now"
                continue
            try:
                record, final = _read(archive, cell)
            except _BROKEN as error:
                left_out[cell] = " ".join(str(error).split()) or type(error).__name__
                continue
            if record.status is Status.OUT_OF_MEMORY or record.status not in SETTLED:
                left_out[cell] = f"it has no result ({str(record.status).replace('_', ' ')})"
                continue
            store.clear(cell)  # what an interrupted run of it has left
            if final is not None:  # before the record, which says that all of it is there
                write_atomic(store.folder(cell) / FINAL_ARTIFACT, partial(_write, final))
            store.write(record)
            new += 1
    return Restored(new, there, left_out)


def _watched(store: CellStore, cells: Sequence[str]) -> Claims:
    """Claims of others: those in an object store count while they are renewed, which is seen by looking twice."""
    claims = Claims(store, None)
    if isinstance(store.root, RemotePath) and (claimed := sum([claims.other(cell) is not None for cell in cells])):
        print(
            f"{claimed} cells are another sweep's: it is watched for {DEAD_SECONDS:.0f} s whether it is at work",
            flush=True,
        )
        time.sleep(DEAD_SECONDS)
    return claims


def _read(archive: zipfile.ZipFile, cell: str) -> tuple[CellRecord, bytes | None]:
    """A cell's record, and what is kept of its test images; raises one of ``_BROKEN``."""
    folder = f"cells/{cell}"
    record = parse(archive.read(f"{folder}/{RECORD_ARTIFACT}"), cell)
    final = f"{folder}/{FINAL_ARTIFACT}"
    return record, archive.read(final) if final in archive.namelist() else None


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
