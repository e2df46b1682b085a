"""Which runs may share a table: finished, of one dataset content, one version of every recipe, and the same epochs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ltsearch.store.records import PlannedRow, Status, headline

Run = Mapping[str, Any]  # a row of the frame

_REASONS = {
    Status.RUNNING: "is still running",
    Status.PRUNED: "was stopped early",
    Status.DIVERGED: "diverged",
    Status.OUT_OF_MEMORY: "ran out of memory",
    Status.FAILED: "failed",
    Status.INTERRUPTED: "was interrupted",
}


@dataclass(frozen=True)
class Absent:
    """A planned cell that is not in the table, and why. ``finished`` ones were left out, others are missing."""

    row: str
    seed: int
    cell: str
    reason: str
    finished: bool

    def __str__(self) -> str:
        """``“BIL”, seed 2: diverged: …``."""
        return f"“{self.row}”, seed {self.seed} (cell `{self.cell}`): {self.reason}"


@dataclass(frozen=True)
class Selection:
    """Runs by row and seed, and what is not among them. All runs share ``common`` (attribute → value)."""

    runs: dict[str, dict[int, Run]]
    absent: tuple[Absent, ...]
    common: dict[str, Hashable]


def by_cell(frame: pd.DataFrame) -> dict[str, Run]:
    """Index the frame's rows by cell."""
    rows = frame.to_dict("records")
    return {str(row["cell"]): {str(key): found for key, found in row.items()} for row in rows}


def value(run: Run, metric: str) -> float | None:
    """Return a metric's last value; None if it was not logged or is not a number."""
    found = run.get(metric)
    return float(found) if found is not None and not math.isnan(found) else None


def why_missing(run: Run | None, metric: str) -> str | None:
    """Why a cell has no number, with its error; None if it has one."""
    if run is None:
        return "has not run"
    status = Status(run["status"])
    if status is not Status.FINISHED:
        error = " ".join(str(run["error"] or "").split())
        return _REASONS[status] + (f": {error[:200]}" if error else "")
    return f"finished without {metric}" if value(run, metric) is None else None


def select(rows: Sequence[PlannedRow], cells: Mapping[str, Run], *, same_epochs: bool = True) -> Selection:
    """Sort planned cells into what may share a table and what may not.

    Of every attribute the value that most cells have stands (on a tie, the first row's); a cell with another is left
    out. A method's recipe is compared among the cells of that method. ``same_epochs=False`` lets epochs differ, as in a
    search.
    """
    absent: list[Absent] = []
    finished: list[tuple[PlannedRow, int, Run, dict[str, Hashable]]] = []
    for row in rows:
        for planned in row.cells:
            run = cells.get(planned.cell)
            reason = why_missing(run, headline(row.predict))
            if run is None or reason is not None:
                absent.append(Absent(row.name, planned.seed, planned.cell, reason or "", finished=False))
            else:
                finished.append((row, planned.seed, run, _attributes(run, same_epochs)))
    common = _majority([attributes for *_, attributes in finished])
    runs: dict[str, dict[int, Run]] = {row.name: {} for row in rows}
    for row, seed, run, attributes in finished:
        differs = [(key, found) for key, found in attributes.items() if found != common[key]]
        other = [f"{key} {_short(found)} instead of {_short(common[key])}" for key, found in differs]
        if other:
            absent.append(Absent(row.name, seed, str(run["cell"]), "left out: " + ", ".join(other), finished=True))
        else:
            runs[row.name][seed] = run
    return Selection(runs, tuple(absent), common)


def _attributes(run: Run, epochs: bool) -> dict[str, Hashable]:
    recipes = {f"recipe {name}": version for name, version in sorted(run["recipes"].items())}
    attributes: dict[str, Hashable] = {"dataset fingerprint": run["fingerprint"], **recipes}
    if epochs:
        planned = run["epochs_planned"]
        attributes["epochs"] = None if planned is None or math.isnan(planned) else int(planned)
    return attributes


def _majority(cells: Sequence[Mapping[str, Hashable]]) -> dict[str, Hashable]:
    counts: dict[str, Counter[Hashable]] = {}
    for attributes in cells:
        for key, found in attributes.items():
            counts.setdefault(key, Counter())[found] += 1
    return {key: counter.most_common(1)[0][0] for key, counter in counts.items()}  # ties: what was met first


def _short(found: Hashable) -> str:
    return found[:12] if isinstance(found, str) and found else str(found or "unknown")
