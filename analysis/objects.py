"""What a report shows, as objects: a frame, tables and figures for notebooks and scripts."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures import DEFAULT_FIGURES, FIGURES, style
from analysis.figures import search as search_figures
from analysis.read.runs import PARAM, Source
from analysis.read.selection import by_cell
from analysis.tables import ablation, ablation_table, costs
from analysis.tables import search as search_summary
from analysis.tables.context import Context
from analysis.tables.record import Table
from ltsearch.store.records import FigureRequest, SearchRecord


def frame(sweep: str, source: Source) -> pd.DataFrame:
    """One line a cell and row that shows it: ``row``, ``setting``, ``seed``, state, every metric's last value, parameters."""
    runs = source.sweep(sweep)
    where = [
        {"row": row.name, "setting": row.setting, "stage": "ablation", "cell": planned.cell}
        for row in runs.plan.rows
        for planned in row.cells
    ]
    if runs.search is not None:
        where += [
            {"row": f"trial {trial.number}", "setting": "", "stage": "search", "cell": trial.cell}
            for trial in runs.search.trials
            if trial.cell
        ]
        where += [
            {"row": f"confirmed trial {winner.number}", "setting": "", "stage": "confirm", "cell": planned.cell}
            for winner in runs.search.confirmed
            for planned in winner.cells
        ]
    named = pd.DataFrame(where, columns=["row", "setting", "stage", "cell"])
    found = named.merge(runs.frame, on="cell", how="left")
    first = ["row", "setting", "stage", "seed", "status", "cell"]
    metrics = [name for name in found.columns if "/" in name and not name.startswith(PARAM)]
    rest = [name for name in found.columns if name not in {*first, *metrics}]
    return found[[*first, *metrics, *rest]]


def search(sweep: str, source: Source) -> SearchRecord | None:
    """The search's record; None if the sweep has none."""
    return source.sweep(sweep).search


def tables(sweep: str, source: Source) -> dict[str, Table]:
    """The tables of the ablation (one a setting), of classes and calibration, and of cost, by name."""
    runs = source.sweep(sweep)
    built = ablation.build(runs.plan, by_cell(runs.frame))
    if not runs.plan.rows:
        return {}
    found = {table.subset or "ablation": ablation_table.build(table, table.subset or "ablation") for table in built}
    classes, cost = costs.to_tables(costs.build(built))
    return {**found, "classes": classes, "cost": cost}


def figures(sweep: str, source: Source) -> dict[str, Figure]:
    """The study's figures (of one that asks for none: what every study has), and the search's, by kind."""
    runs = source.sweep(sweep)
    context = Context(runs.plan, ablation.build(runs.plan, by_cell(runs.frame)), source)
    asked = runs.plan.figures or [FigureRequest(kind=kind) for kind in DEFAULT_FIGURES]
    found: dict[str, Figure] = {}
    with style.style():
        for number, request in enumerate(asked, start=1):
            kind = FIGURES[request.kind]
            data = kind.build(context, request) if runs.plan.rows else None
            if data is not None:
                name = request.kind if request.kind not in found else f"{request.kind} {number}"
                found[name] = kind.render(data)
        if runs.search is not None:
            summary = search_summary.build(runs.search, by_cell(runs.frame))
            found |= {name: figure for name, (_, _, figure) in search_figures.draw(summary).items()}
    return found
