"""``results/index.md``: every study of a store, how it stands, its headline, and where its report is; and those not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis import markdown
from analysis.read.state import State
from analysis.read.study_files import Study
from analysis.tables.ablation import AblationTable
from analysis.tables.search import SearchSummary
from ltsearch.store.records import PlanRecord

INDEX = "index.md"


@dataclass(frozen=True)
class Entry:
    """One study. ``report`` is None if there was nothing to report, and ``headline`` then says why, or how to run it."""

    sweep: str
    question: str
    state: str
    headline: str
    report: Path | None


def headline(plan: PlanRecord, tables: Sequence[AblationTable], summary: SearchSummary | None) -> str:
    """The best row of every table with its difference to the reference, and the best trial of a search."""
    parts = []
    for table in tables:
        rows = [row for row in table.rows if row.accuracy is not None]
        best = max(rows, key=lambda row: row.accuracy.mean if row.accuracy is not None else 0.0, default=None)
        if best is None:
            continue
        where = f"{table.subset}: " if table.subset else ""
        text = f"{where}best {best.name}, {markdown.mean_std(best.accuracy)} %"
        if best.difference is not None:
            text += f", {markdown.difference(best.difference)} to {table.reference}"
        parts.append(text)
    if summary is not None:
        finished = sum(trial.state == "finished" for trial in summary.trials)
        parts.append(f"search: {finished} of {len(summary.trials)} trials ran to the end")
    return "; ".join(parts) or "nothing finished"


def stand(state: State) -> str:
    """``27/27 cells, 40 trials``."""
    parts = [f"{state.finished}/{state.planned} cells"] if state.planned else []
    parts += [f"{sum(state.search.values())} trials"] if state.search else []
    parts += [f"{state.confirmed[0]}/{state.confirmed[1]} confirmations"] if state.confirmed is not None else []
    return ", ".join(parts) or "empty"


def not_run(studies: Sequence[Study], sweeps: Sequence[str]) -> list[Entry]:
    """Studies of which the store has no sweep, under any profile, with the command that runs them."""
    there = {sweep.partition("@")[0] for sweep in sweeps}
    entries = []
    for study in studies:
        if study.error:
            entries.append(Entry(study.file.as_posix(), "", "cannot be read", study.error, None))
        elif study.name not in there:
            command = f"`python -m ltsearch.sweep {study.file.as_posix()}`"
            command += f" (profiles: {', '.join(study.profiles)})" if study.profiles else ""
            entries.append(Entry(study.name, study.question, "not run", command, None))
    return entries


def render(entries: Sequence[Entry], folder: Path) -> str:
    """Markdown, links relative to ``folder``."""
    rows = []
    for entry in entries:
        name = markdown.escape(entry.sweep)
        if entry.report is not None:
            name = f"[{name}]({entry.report.relative_to(folder).as_posix()})"
        rows.append([name, *map(markdown.escape, (entry.question, entry.state, entry.headline))])
    lines = markdown.table(["study", "question", "state", "headline"], rows, left=4, escaped=True)
    return "\n".join(["# Results", "", *lines, ""])
