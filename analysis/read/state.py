"""What ran: every planned cell with how it stands, and the reasons of those without a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from analysis import markdown
from analysis.read.selection import Run, value, why_missing
from ltsearch.store.records import PlanRecord, SearchRecord, Status, headline


@dataclass(frozen=True)
class State:
    """``grid``: how the cell of every row and seed stands. ``finished`` and ``planned`` count distinct cells."""

    seeds: tuple[int, ...]
    grid: dict[str, dict[int, str]]
    reasons: tuple[str, ...]
    finished: int
    planned: int
    search: dict[str, int]  # trials by state
    confirmed: tuple[int, int] | None  # finished and planned cells
    seconds: float  # of training, over all cells of the sweep


def build(plan: PlanRecord, search: SearchRecord | None, cells: Mapping[str, Run]) -> State:
    """Look up every planned cell."""
    seeds = sorted({cell.seed for row in plan.rows for cell in row.cells})
    grid: dict[str, dict[int, str]] = {}
    reasons = []
    for row in plan.rows:
        grid[row.label] = {}
        for planned in row.cells:
            run = cells.get(planned.cell)
            grid[row.label][planned.seed] = str(run["status"]).replace("_", " ") if run is not None else "not run"
            reason = why_missing(run, headline(row.predict))
            if reason is not None:
                reasons.append(f"“{row.label}”, seed {planned.seed} (cell `{planned.cell}`) {reason}")
    ablation = {cell.cell for row in plan.rows for cell in row.cells}
    confirmed = {cell.cell for winner in search.confirmed for cell in winner.cells} if search is not None else set()
    return State(
        seeds=tuple(seeds),
        grid=grid,
        reasons=tuple(reasons),
        finished=_finished(ablation, cells),
        planned=len(ablation),
        search=dict(sorted(Counter(trial.state for trial in search.trials).items())) if search is not None else {},
        confirmed=(_finished(confirmed, cells), len(confirmed)) if confirmed else None,
        seconds=sum(value(run, "total_seconds") or 0.0 for run in cells.values()),
    )


def _finished(ids: set[str], cells: Mapping[str, Run]) -> int:
    return sum(1 for cell in ids if cell in cells and cells[cell]["status"] == Status.FINISHED)


def render(state: State) -> str:
    """Markdown."""
    lines = []
    if state.planned:
        lines.append(f"- Ablation: {state.finished} of {state.planned} trials finished.")
    if state.search:
        counts = ", ".join(f"{count} {name}" for name, count in state.search.items())
        lines.append(f"- Search: {sum(state.search.values())} trials ({counts}).")
    if state.confirmed is not None:
        lines.append(f"- Confirmation: {state.confirmed[0]} of {state.confirmed[1]} trials finished.")
    lines.append(f"- Training time of all of them: {duration(state.seconds)}.")
    if state.grid:
        absent = markdown.ABSENT
        rows = [[name, *(cells.get(seed, absent) for seed in state.seeds)] for name, cells in state.grid.items()]
        lines += ["", *markdown.table(["", *(f"seed {seed}" for seed in state.seeds)], rows)]
    if state.reasons:
        lines += ["", "What is missing:", "", *markdown.listed(state.reasons)]
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``5 min 12 s`` or ``3.2 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {int(seconds % 60):02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
