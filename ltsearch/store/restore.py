"""Cells of an export, put back into a store: a sweep goes on from what a colleague, or a machine that is gone, has trained.

An export (``python -m analysis.report STUDY --export``) has the records of a sweep and what its report reads of single images,
but no weights: a cell that another one starts from is trained again.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from ltsearch.store.cells import CellStore
from ltsearch.store.records import FINAL_ARTIFACT, RECORD_ARTIFACT, SETTLED
from ltsearch.store.validation import BadRecord, parse
from trainables.errors import UserError
from trainables.files import write_atomic


class Restored(NamedTuple):
    """How many cells of an export were put into the store, were there already, and are left out."""

    new: int
    there: int
    left_out: dict[str, str]  # cell -> why


def restore(path: Path, store: CellStore) -> Restored:
    """Put the settled cells of an export into a store; what is there stays as it is.

    Left out are cells that have not ended, and those that are broken or that this version would train otherwise.

    Raises ``UserError`` if the file is no export or the store cannot be written to.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path}: not the export of a sweep ({getattr(error, 'strerror', None) or error}); "
            "`python -m analysis.report STUDY --export` writes one"
        ) from None
    store.check_writable()
    new, there, left_out = 0, 0, {}
    with archive:
        names = set(archive.namelist())
        cells = sorted(name.split("/")[1] for name in names if name.endswith(f"/{RECORD_ARTIFACT}"))
        if not cells:
            raise UserError(f"{path}: no cells in it; `python -m analysis.report STUDY --export` writes an export")
        for cell in cells:
            known = store.read(cell)
            if known is not None and known.status in SETTLED:
                there += 1
                continue
            try:
                record = parse(archive.read(f"cells/{cell}/{RECORD_ARTIFACT}"), cell)
            except (BadRecord, zipfile.BadZipFile, EOFError) as error:
                left_out[cell] = " ".join(str(error).split())
                continue
            if record.status not in SETTLED:
                left_out[cell] = f"it has not ended ({record.status})"
            else:
                final = f"cells/{cell}/{FINAL_ARTIFACT}"
                if final in names:  # before the record, which says that all of it is there
                    kept = archive.read(final)
                    write_atomic(store.folder(cell) / FINAL_ARTIFACT, lambda file, kept=kept: file.write(kept))  # type: ignore[misc]
                store.write(record)
                new += 1
    return Restored(new, there, left_out)
