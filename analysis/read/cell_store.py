"""Runs in the store: records, which are the truth, with the runs on the tracking server that show them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from analysis.read.finals import Finals
from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import Source, SweepRuns, cells_of, check_finished, frame, row_of
from ltsearch.store.cells import CellStore
from ltsearch.store.records import (
    FINAL_ARTIFACT,
    PLAN_ARTIFACT,
    SEARCH_ARTIFACT,
    CellRecord,
    PlanRecord,
    SearchRecord,
    Status,
)
from trainables.errors import UserError
from trainables.files import Location, shown

Record = TypeVar("Record", bound=BaseModel)
SCORES = "test/"  # metrics that a record and a run are compared by
COMPARED = (
    500  # cells; of a larger sweep the runs are looked at only if the store lacks something: MLflow takes 5 ms for one
)


def find(sweep: str, storage: str, tracking_uri: str) -> Source:
    """The store if the sweep was run into it, else the tracking server; raises ``UserError`` as that does."""
    store = StoredRuns(storage, tracking_uri)
    return store if store.has(sweep) else TrackingStore(tracking_uri)


class StoredRuns:
    """A store of cells that is only read. What it has lost is taken from the tracking server, if that has it."""

    def __init__(self, storage: str, tracking_uri: str) -> None:
        """Nothing is read yet. Raises ``UserError`` for a storage that cannot be used."""
        self.store = CellStore(storage)
        self.name = shown(self.store.root)
        self._tracking_uri = tracking_uri
        self._tracking: TrackingStore | None = None

    def has(self, sweep: str) -> bool:
        """Was it run into this store?"""
        return (self.store.sweep_folder(sweep) / PLAN_ARTIFACT).exists()

    def sweeps(self) -> list[str]:
        """Names of those that were, sorted."""
        folder = self.store.root / "sweeps"
        names = folder.names() if not hasattr(folder, "iterdir") else _folders(folder)
        return sorted(name for name in names if self.has(name))

    def sweep(self, name: str) -> SweepRuns:
        """Read a sweep; raises ``UserError`` if none of its runs has finished."""
        folder = self.store.sweep_folder(name)
        plan = _read(folder / PLAN_ARTIFACT, PlanRecord)
        if plan is None:
            raise UserError(f"{self.name}: no sweep {name!r}; run the sweep first, or name its store with --storage")
        search = _read(folder / SEARCH_ARTIFACT, SearchRecord)
        cells = sorted(cells_of(plan, search))
        found = {cell: self.store.read(cell) for cell in cells}
        bad = [f"{self.store.bad[cell]}; it does not count." for cell in cells if cell in self.store.bad]
        missing = [cell for cell in cells if found[cell] is None and cell not in self.store.bad]
        links, tracked, notes = self._tracked(name, len(cells) <= COMPARED or bool(missing))
        rows = [row_of(record, *links.get(cell, ("", ""))) for cell, record in found.items() if record is not None]
        other = [
            f"cell `{row['cell']}`: {said}"
            for row in rows
            if (said := _disagreement(row, tracked.get(row["cell"], {})))
        ]
        lost = [tracked[cell] for cell in missing if cell in tracked and tracked[cell]["status"] == Status.FINISHED]
        if lost:
            notes.append(
                f"{len(lost)} finished cells are no longer in the store: what the tracking server has of them is shown."
            )
        if other:
            told = "; ".join(other[:5]) + (f"; and {len(other) - 5} more" if len(other) > 5 else "")
            notes.append(f"The store and the tracking server disagree, and the store's numbers are shown: {told}.")
        runs = SweepRuns(plan, search, frame([*rows, *lost]), tuple([*notes, *bad]))
        return check_finished(runs, self.name, name)

    def _tracked(
        self, sweep: str, look: bool
    ) -> tuple[dict[str, tuple[str, str]], dict[str, dict[str, Any]], list[str]]:
        """Runs and pages by cell, with ``look`` also what the runs say, or a note that there are none."""
        try:
            self._tracking = TrackingStore(self._tracking_uri)
            links = self._tracking.links(sweep)
            if not look and links:
                return links, {}, []
            rows = {str(row["cell"]): row for row in self._tracking.rows(sweep)}
            return {cell: (str(row["run_id"]), str(row["page"])) for cell, row in rows.items()}, rows, []
        except UserError as error:
            self._tracking = None
            return {}, {}, [f"From the records of the store; runs are not linked ({error})."]

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """Of the store, or else of the tracking server."""
        found: dict[str, CellRecord] = {}
        for cell in cells:
            record = self.store.read(cell)
            if record is not None:
                found[cell] = record
            elif self._tracking is not None:
                found |= self._tracking.records([cell])
        return found

    def final(self, cell: str) -> Finals | None:
        """The arrays that a cell keeps."""
        try:
            content = (self.store.folder(cell) / FINAL_ARTIFACT).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return self._tracking.final(cell) if self._tracking is not None else None
        return Finals.load(content)


def _folders(folder: Any) -> list[str]:
    return [item.name for item in folder.iterdir()] if folder.is_dir() else []


def _read(path: Location, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise UserError(
            f"{shown(path)}: not what this version reads ({where}: {first['msg']}); the same sweep writes it again"
        ) from None


def _disagreement(ours: dict[str, Any], run: dict[str, Any]) -> str:
    """What the run says otherwise than the record: how it ended, or a score; empty if they agree or it is not over there."""
    if run.get("status") != Status.FINISHED or ours["status"] != Status.FINISHED:
        return ""
    for key, value in ours.items():
        if key.startswith(SCORES) and key in run and not np.isclose(value, run[key], rtol=1e-9, atol=1e-12):
            return f"{key} is {value:.6g} in the store and {run[key]:.6g} on the server"
    return ""
