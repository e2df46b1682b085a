"""What a report reads: a sweep's plan, its search and a tidy frame of its cells, wherever they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from analysis.read.finals import Finals
from ltsearch.store.records import CellRecord, PlanRecord, SearchRecord, Status
from trainables.errors import UserError

PARAM = "params."  # what the frame's columns of parameters start with
COLUMNS = (
    "cell", "run_id", "page", "seed", "status", "error", "fingerprint", "timed", "recipes", "epochs_planned",
    "started", "ended",
)  # fmt: skip


@dataclass(frozen=True)
class SweepRuns:
    """What is known of one sweep.

    ``frame`` has one row a cell: ``COLUMNS``, ``params.<key>`` as text and every metric's last value by name. ``started`` and
    ``ended`` are seconds since 1970; ``run_id`` and ``page`` are the cell's run on the tracking server and where it is shown,
    or empty; ``timed`` is the session and the hardware that its times belong to. ``notes``: what a reader has to know of where
    this comes from.
    """

    plan: PlanRecord
    search: SearchRecord | None
    frame: pd.DataFrame
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """Where runs are read from: a store of cells, a tracking server, an export."""

    name: str

    def sweep(self, name: str) -> SweepRuns:
        """Read a sweep; raises ``UserError`` if it is not there, or none of its runs has finished."""
        ...

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """The records of some cells, by cell; those without one are left out."""
        ...

    def final(self, cell: str) -> Finals | None:
        """The arrays that a finished cell keeps; None if it has none."""
        ...


def cells_of(plan: PlanRecord, search: SearchRecord | None) -> set[str]:
    """Every cell that the sweep's tables may show."""
    cells = {cell.cell for row in plan.rows for cell in row.cells}
    if search is not None:
        cells |= {trial.cell for trial in search.trials}
        cells |= {cell.cell for winner in search.confirmed for cell in winner.cells}
    return cells


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows of the frame as one, sorted by cell."""
    found = sorted(rows, key=lambda row: str(row["cell"]))
    return pd.DataFrame(found) if found else pd.DataFrame(columns=list(COLUMNS))


def row_of(record: CellRecord, run_id: str = "", page: str = "") -> dict[str, Any]:
    """A cell's row of the frame, from its record."""
    metrics: dict[str, float] = {}
    for epoch in record.history:
        metrics |= epoch.metrics
    if record.history:
        metrics["total_seconds"] = record.final["total_seconds"]
    epochs = record.config.get("training", {}).get("epochs")
    return {
        "cell": record.cell,
        "run_id": run_id,
        "page": page,
        "seed": record.config.get("seed"),
        "status": str(record.status),
        "error": record.error or "",
        "fingerprint": record.fingerprint,
        "timed": record.timed,
        "recipes": record.recipes,
        "epochs_planned": epochs,
        "started": record.started or math.nan,
        "ended": record.ended if record.ended is not None else math.nan,
        **{f"{PARAM}{key}": str(value) for key, value in flat(record.config)},
        **metrics,
    }


def flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a configuration."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def check_finished(runs: SweepRuns, source: str, sweep: str) -> SweepRuns:
    """The runs; raises ``UserError`` if none has finished."""
    status = runs.frame["status"]
    if not (status == Status.FINISHED).any():
        stand = ", ".join(f"{count} {name}" for name, count in status.value_counts().sort_index().items()) or "no runs"
        raise UserError(f"{source}: sweep {sweep!r}: none of its trials has finished ({stand}); nothing to report")
    return runs
