"""What a report's parts are made from: the plan, its tables, and what runs have kept, read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from analysis.read.finals import Finals
from analysis.read.runs import Source
from analysis.read.selection import Run
from analysis.tables.ablation import AblationTable
from ltsearch.store.records import CellRecord, PlannedRow, PlanRecord


@dataclass(frozen=True)
class Context:
    """A sweep's tables with the store behind them. Only runs that may share a table are seen from here."""

    plan: PlanRecord
    tables: Sequence[AblationTable]
    source: Source

    def settings(self) -> list[str]:
        """Names of the ablation's settings; one empty name if it has none."""
        return list(dict.fromkeys(row.setting for row in self.plan.rows))

    def rows(self, names: Sequence[str] = (), setting: str | None = None) -> list[PlannedRow]:
        """Planned rows in order: those named (all for none), of one setting or of all of them."""
        return [
            row
            for row in self.plan.rows
            if (not names or row.name in names) and (setting is None or row.setting == setting)
        ]

    def runs(self, row: PlannedRow) -> dict[int, Run]:
        """The runs of a row that are in its table, by seed."""
        for table in self.tables:
            if table.setting == row.setting and row.name in table.selection.runs:
                return dict(sorted(table.selection.runs[row.name].items()))
        return {}

    def records(self, row: PlannedRow) -> dict[int, CellRecord]:
        """Their cell records (class names and counts, per-class accuracy, the history of every epoch), by seed."""
        runs = self.runs(row)
        found = self.source.records(str(run["cell"]) for run in runs.values())
        return {seed: found[str(run["cell"])] for seed, run in runs.items() if str(run["cell"]) in found}

    def finals(self, row: PlannedRow, seed: int | None = None) -> Iterator[tuple[int, Finals]]:
        """Seeds and what they keep (``final.npz``), of those runs that have one, or of one seed; one at a time: large ones."""
        for number, run in self.runs(row).items():
            arrays = self.source.final(str(run["cell"])) if seed in (None, number) else None
            if arrays is not None:
                yield number, arrays
