"""What a search found: its trials, the best of them, their confirmed test results, importances.

Accuracies are in percent. A search selects on validation images; only confirmed trials have seen the test set, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import markdown
from analysis.read import labels
from analysis.read.selection import Absent, Run, select, value
from analysis.statistics.seeds import Summary, summarize
from analysis.tables.record import Column, Table, to_latex, to_markdown
from ltsearch.store.records import PlannedRow, SearchRecord, SearchTrial, headline

SHOWN = 10  # trials in the table; the CSV has all


@dataclass(frozen=True)
class Confirmed:
    """A winner on the test set, trained with fresh seeds and all images."""

    number: int
    params: dict[str, Any]
    values: tuple[float, ...]  # validation, scaled
    single: Summary | None
    ensemble: Summary | None
    n: int
    planned: int


@dataclass(frozen=True)
class SearchSummary:
    """A search, ready to be printed. ``best`` is best first, or the Pareto front; values are scaled for print."""

    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    parameters: tuple[str, ...]
    space: dict[str, str]
    sampler: str
    early_stopping: str
    stopped_by: str
    best: tuple[SearchTrial, ...]
    trials: tuple[SearchTrial, ...]
    confirmed: tuple[Confirmed, ...]
    absent: tuple[Absent, ...]
    importances: dict[str, dict[str, float]]


def build(record: SearchRecord, cells: Mapping[str, Run]) -> SearchSummary:
    """From ``search.json`` and the runs of the confirmed cells."""
    scales = [labels.scale(metric) for metric in record.metrics]

    def scaled(trial: SearchTrial) -> SearchTrial:
        complete = trial.values is not None and len(trial.values) == len(scales)
        values = [s * v for s, v in zip(scales, trial.values or [], strict=True)] if complete else None
        return trial.model_copy(update={"values": values})

    trials = [scaled(trial) for trial in record.trials]
    by_number = {trial.number: trial for trial in trials}
    rows = [
        PlannedRow(name=f"trial {winner.number}", predict="single", changes={}, cells=winner.cells)
        for winner in record.confirmed
    ]
    selection = select(rows, cells, same_epochs=False)
    confirmed = []
    for row, winner in zip(rows, record.confirmed, strict=True):
        runs = selection.runs[row.name]
        values = tuple(s * v for s, v in zip(scales, winner.values, strict=True))
        single, ensemble = (_summary(runs, headline(predict)) for predict in ("single", "ensemble"))
        confirmed.append(
            Confirmed(winner.number, winner.params, values, single, ensemble, len(runs), len(winner.cells))
        )
    return SearchSummary(
        metrics=tuple(record.metrics),
        directions=tuple(record.directions),
        parameters=tuple(record.space) or tuple(dict.fromkeys(key for trial in trials for key in trial.params)),
        space={name: str(description) for name, description in record.space.items()},
        sampler=record.sampler,
        early_stopping=record.early_stopping,
        stopped_by=record.stopped_by,
        best=tuple(by_number[number] for number in record.best if number in by_number),
        trials=tuple(trials),
        confirmed=tuple(confirmed),
        absent=selection.absent,
        importances=record.importances,
    )


def _summary(runs: Mapping[int, Run], metric: str) -> Summary | None:
    return summarize({seed: 100 * v for seed, run in runs.items() if (v := value(run, metric)) is not None})


# -- render ------------------------------------------------------------------------------------------------------------


def render(summary: SearchSummary) -> str:
    """Markdown: how it searched, the best trials, what they gave on the test set, importances."""
    objectives = ", ".join(f"{d} {labels.label(m)}" for m, d in zip(summary.metrics, summary.directions, strict=True))
    lines = [f"Objective: {objectives}. Sampler: {summary.sampler}. Early stopping: {summary.early_stopping}."]
    lines[0] += f" Stopped by: {summary.stopped_by}." if summary.stopped_by else " Not stopped yet."
    lines += ["", *markdown.table(["parameter", "searched over"], list(summary.space.items()), left=2)]
    front = "The Pareto front" if len(summary.metrics) > 1 else "Best trials"
    more = f", {SHOWN} of {len(summary.best)}" if len(summary.best) > SHOWN else ""
    found = [f"{front} on validation{more}:", "", to_markdown(best_table(summary))]
    found = found if summary.best else ["No trial has finished."]
    lines += ["", *found]
    if summary.confirmed:
        lines += ["", f"{_winners(summary)}:", ""]
        lines.append(to_markdown(confirmed_table(summary)))
    if summary.importances:
        lines += ["", "Importance of the parameters (fANOVA, share of the variance):", "", *_importances(summary)]
        lines += ["", f"{rated(summary)}."]
    return "\n".join(lines)


def best_table(summary: SearchSummary) -> Table:
    """The best trials on validation, or the Pareto front."""
    names = labels.short_names(summary.parameters)
    columns = [Column("rank", "rank", format="d"), Column("trial", "trial", format="d")]
    columns += [Column(metric, labels.label(metric), format=".4g") for metric in summary.metrics]
    blank: list[float | None] = [None] * len(summary.metrics)
    columns += [Column("epochs", "epochs", format="d"), *(Column(key, short) for key, short in names.items())]
    rows = tuple(
        (
            rank,
            trial.number,
            *(trial.values if trial.values is not None else blank),
            trial.epochs,
            *(labels.text(trial.params[key]) if key in trial.params else None for key in names),
        )
        for rank, trial in enumerate(summary.best[:SHOWN], start=1)
    )
    return Table("search_best", "Best trials of the search, on validation images", tuple(columns), rows)


def confirmed_table(summary: SearchSummary) -> Table:
    """The winners on the test set, in the order of validation; no mark for the best: that would select on the test set."""
    columns = [Column("trial", "trial", format="d"), Column("parameters", "parameters")]
    columns += [Column(metric, labels.label(metric), format=".4g") for metric in summary.metrics]
    columns += [Column("test_single", "test single"), Column("test_ensemble", "test ensemble")]
    columns += [Column("seeds", "seeds")]
    rows = tuple(
        (
            winner.number,
            labels.setting(winner.params),
            *winner.values,
            winner.single,
            winner.ensemble,
            f"n={winner.n}" if winner.n == winner.planned else f"n={winner.n}/{winner.planned}",
        )
        for winner in summary.confirmed
    )
    chosen = "The order is that of validation, where the winner is chosen; the test set selects nothing."
    notes = (chosen, *map(str, summary.absent))
    return Table("search_confirmed", _winners(summary), tuple(columns), rows, notes)


def _winners(summary: SearchSummary) -> str:
    order = "in the order of the front" if len(summary.metrics) > 1 else "by their rank on validation"
    return f"Winners of the search {order}, trained again with fresh seeds and all training images, on the test set"


def rated(summary: SearchSummary) -> str:
    """Which trials importances are over, and which parameters have none: those that not every finished trial has."""
    finished = sum(trial.state == "finished" for trial in summary.trials)
    text = f"Over {finished} finished trials (pruned ones are not counted)"
    missing = [name for name in summary.parameters if not any(name in found for found in summary.importances.values())]
    return f"{text}; conditional parameters are not rated: {', '.join(missing)}" if missing else text


def _importances(summary: SearchSummary) -> list[str]:
    metrics = list(summary.importances)
    names = dict.fromkeys(name for values in summary.importances.values() for name in values)
    rows = [
        [name, *(markdown.number(summary.importances[metric].get(name), ".3f") for metric in metrics)] for name in names
    ]
    return markdown.table(["parameter", *map(labels.label, metrics)], rows)


def render_files(summary: SearchSummary, study: str = "") -> dict[str, str]:
    """Texts by file name: every trial, the confirmed ones, importances as CSV, tables as LaTeX. Accuracies in percent.

    ``study`` goes into the labels of the LaTeX tables.
    """
    metrics, keys = summary.metrics, summary.parameters
    blank = [None] * len(metrics)
    ranks = {trial.number: rank for rank, trial in enumerate(summary.best, start=1)}
    trials: list[list[object]] = [
        [t.number, t.state, ranks.get(t.number), *(t.values or blank), t.epochs, t.seconds, t.cell]
        + [t.params.get(key) for key in keys]
        for t in summary.trials
    ]
    confirmed: list[list[object]] = [
        [c.number, *c.values, c.n, c.planned, *_pair(c.single), *_pair(c.ensemble), *map(c.params.get, keys)]
        for c in summary.confirmed
    ]
    importances: list[list[object]] = [
        [metric, name, share] for metric, values in summary.importances.items() for name, share in values.items()
    ]
    tests = ["test_single", "test_single_std", "test_ensemble", "test_ensemble_std"]
    latex = [table for table in (best_table(summary), confirmed_table(summary)) if table.rows]
    files = {
        "search_trials.csv": (["trial", "state", "rank", *metrics, "epochs", "seconds", "cell", *keys], trials),
        "search_confirmed.csv": (["trial", *metrics, "n", "planned", *tests, *keys], confirmed),
        "search_importances.csv": (["metric", "parameter", "importance"], importances),
    }
    texts = {name: markdown.csv_text(header, rows) for name, (header, rows) in files.items() if rows}
    return texts | {f"{table.name}.tex": to_latex(table, study) for table in latex}


def _pair(summary: Summary | None) -> list[float | None]:
    return [None, None] if summary is None else [summary.mean, summary.std]
