"""A run export: what a report was written from, in one file that is small enough to commit; the report again from that.

A zip file of ``sweep.json`` (version, notes, runs on the tracking server by cell), ``plan.json``, ``search.json``, for every
cell ``cells/<id>/record.json`` with, where the report looks at single images, a ``final.npz`` of what it read: no weights, and
of logits only what was computed from them.
"""

from __future__ import annotations

import io
import json
import lzma
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from analysis.read.finals import Finals
from analysis.read.runs import Source, SweepRuns, cells_of, check_finished, frame, row_of
from ltsearch.store.records import (
    FINAL_ARTIFACT,
    PLAN_ARTIFACT,
    RECORD_ARTIFACT,
    SEARCH_ARTIFACT,
    CellRecord,
    PlanRecord,
    SearchRecord,
)
from trainables.errors import UserError
from trainables.files import write_atomic

EXPORT, HEAD, VERSION = "export.zip", "sweep.json", 1
_STAMP = (1980, 1, 1, 0, 0, 0)  # of every file inside: the same runs make the same bytes


class Exporting:
    """A source of which everything that a report reads is kept, to be written as an export.

    What is read through it is what the export will say: the frame is made from the records.
    """

    def __init__(self, source: Source) -> None:
        """Nothing is read yet."""
        self.source, self.name = source, source.name
        self._runs: SweepRuns | None = None
        self._records: dict[str, CellRecord] = {}
        self._finals: dict[str, Finals] = {}

    def sweep(self, name: str) -> SweepRuns:
        """The source's, with every record."""
        runs = self.source.sweep(name)
        shown = {str(row["cell"]): (str(row["run_id"]), str(row["page"])) for row in runs.frame.to_dict("records")}
        self._records = dict(sorted(self.source.records(shown).items()))
        rows = [row_of(record, *shown[cell]) for cell, record in self._records.items()]
        self._runs = check_finished(SweepRuns(runs.plan, runs.search, frame(rows), runs.notes), self.name, name)
        self._links = {cell: shown[cell] for cell in self._records}
        return self._runs

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """Of the sweep that was read."""
        return {cell: self._records[cell] for cell in cells if cell in self._records}

    def final(self, cell: str) -> Finals | None:
        """The source's; what is read of it is kept."""
        found = self.source.final(cell)
        if found is None:
            return None
        read = self._finals[cell].read if cell in self._finals else {}
        self._finals[cell] = Finals({}, read)  # the rest is not held in memory
        return Finals(found.arrays, read)

    def write(self, path: Path) -> None:
        """Everything that was read, as one file."""
        assert self._runs is not None
        head = {"version": VERSION, "notes": self._runs.notes, "runs": self._links}
        parts = {HEAD: _json(head), PLAN_ARTIFACT: self._runs.plan.model_dump_json(indent=1).encode()}
        if self._runs.search is not None:
            parts[SEARCH_ARTIFACT] = self._runs.search.model_dump_json(indent=1).encode()
        for cell, record in self._records.items():
            parts[f"cells/{cell}/{RECORD_ARTIFACT}"] = record.model_dump_json().encode()
            read = self._finals[cell].read if cell in self._finals else {}
            if read:
                buffer = io.BytesIO()
                np.savez(buffer, allow_pickle=False, **{name: read[name] for name in sorted(read)})
                parts[f"cells/{cell}/{FINAL_ARTIFACT}"] = buffer.getvalue()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name, _STAMP), content, zipfile.ZIP_LZMA)
        write_atomic(path, lambda file: file.write(buffer.getvalue()))


class Export:
    """An export that is read."""

    def __init__(self, path: Path) -> None:
        """Open it; raises ``UserError`` if it is none, or one of a later version."""
        self.name = str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                self._parts = {name: archive.read(name) for name in archive.namelist()}
            head = json.loads(self._parts[HEAD])
            version = int(head["version"])
            self._notes: tuple[str, ...] = tuple(map(str, head["notes"]))
            self._links: dict[str, list[str]] = {str(cell): list(run) for cell, run in head["runs"].items()}
            self.plan = PlanRecord.model_validate_json(self._parts[PLAN_ARTIFACT])
            search = self._parts.get(SEARCH_ARTIFACT)
            self._search = SearchRecord.model_validate_json(search) if search is not None else None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
        except (zipfile.BadZipFile, lzma.LZMAError, KeyError, ValueError, TypeError, AttributeError, EOFError) as error:
            why = (
                "a part of it is missing or damaged" if not isinstance(error, zipfile.BadZipFile) else "not a zip file"
            )
            raise UserError(
                f"{path}: not the export of a sweep ({why}: {' '.join(str(error).split())[:200]}); "
                "`python -m analysis.report STUDY --export` writes one"
            ) from None
        if version > VERSION:
            raise UserError(f"{path}: an export of version {version}; this one reads up to {VERSION}: update ltsearch")

    def sweep(self, name: str) -> SweepRuns:
        """The sweep that is in it; raises ``UserError`` if that is another one. Broken records are left out and named."""
        if name != self.plan.sweep:
            raise UserError(f"{self.name}: the export of sweep {self.plan.sweep!r}, not of {name!r}")
        rows, broken = [], []
        for cell in sorted(cells_of(self.plan, self._search)):
            try:
                record = self._record(cell)
            except UserError as error:
                broken.append(str(error))
                continue
            if record is not None:
                run_id, page = self._links.get(cell, ["", ""])
                rows.append(row_of(record, run_id, page))
        if broken:
            listed = "; ".join(broken[:5]) + (f"; and {len(broken) - 5} more" if len(broken) > 5 else "")
            self._notes += (f"{len(broken)} records of the export are broken and left out: {listed}.",)
        return check_finished(SweepRuns(self.plan, self._search, frame(rows), self._notes), self.name, name)

    def _record(self, cell: str) -> CellRecord | None:
        content = self._parts.get(f"cells/{cell}/{RECORD_ARTIFACT}")
        if content is None:
            return None
        try:
            record = CellRecord.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"cell `{cell}` ({where + ': ' if where else ''}{first['msg']})") from None
        if record.cell != cell:
            raise UserError(f"cell `{cell}` (it is the record of cell {record.cell})")
        return record

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """Those that are whole."""
        found = {}
        for cell in cells:
            try:
                record = self._record(cell)
            except UserError:
                continue
            if record is not None:
                found[cell] = record
        return found

    def final(self, cell: str) -> Finals | None:
        """What the first report read."""
        content = self._parts.get(f"cells/{cell}/{FINAL_ARTIFACT}")
        return Finals.load(content) if content is not None else None


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
