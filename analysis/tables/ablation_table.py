"""The ablation as printed: a table for every setting, and one of all settings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis import markdown
from analysis.read.selection import value
from analysis.statistics.seeds import Summary
from analysis.tables.ablation import BEST_EPOCH, AblationRow, AblationTable, trained_on
from analysis.tables.record import Column, Content, Table
from ltsearch.store.records import CLASS_SUMMARIES, ENSEMBLE_TOP1, GROUPS, SINGLE_TOP1, TEST, headline


def build(table: AblationTable, name: str) -> Table:
    """One setting: accuracy, difference to the reference, single and ensemble, shot groups, the published number."""
    published = any(row.published is not None for row in table.rows)
    best_epoch = any(row.best_epoch is not None for row in table.rows)
    over_images = any(row.over_images is not None for row in table.rows)
    ensembles = any(row.scores["ensemble"] is not None for row in table.rows)
    seeds = {(len(row.seeds), row.planned) for row in table.rows}
    alike = len(seeds) == 1 and all(n == planned for n, planned in seeds)
    columns = [
        Column("row", ""),
        Column("predict", "prediction", shown=False),
        Column("accuracy", "Acc.", best="max"),
        Column("seeds", "seeds", shown=not alike),
        Column("planned", "planned", shown=False),
        Column("difference", f"difference to {table.reference}"),
        *(Column(score, score, best="max", shown=ensembles) for score in ("single", "ensemble")),
        *(Column(group, group, best="max") for group in GROUPS),
        Column("over_images", "over images", best="max", shown=over_images),
        Column("best_epoch_on_test", BEST_EPOCH, shown=best_epoch),
        Column("published", "published", shown=published),
        Column("to_published", "to published", shown=published),
        Column("published_source", "source", shown=False),
    ]
    rows = tuple(_cells(row, table.reference) for row in table.rows)
    n = table.rows[0].planned if alike else 0
    over = "one seed" if n == 1 else f"mean ± standard deviation over {n or ''} seeds".replace("  ", " ")
    caption = f"Top-1 accuracy (%), {over}: {table.subset or trained_on(table.planned)}"
    notes = ("One seed a row." if n == 1 else f"{n} seeds a row.", *table.footnotes) if n else table.footnotes
    return Table(name, caption, tuple(columns), rows, notes)


def _cells(row: AblationRow, reference: str) -> tuple[Content, ...]:
    n = len(row.seeds)
    number, gap = row.published, row.published_difference
    return (
        row.name,
        row.predict,
        row.accuracy,
        f"n={n}" if n == row.planned else f"n={n}/{row.planned}",
        row.planned,
        "reference" if row.name == reference else row.difference,
        *row.scores.values(),
        row.over_images,
        row.best_epoch,
        number.value if number is not None else None,
        markdown.signed(gap) if gap is not None else None,
        f"{number.source}, {number.label}" if number is not None else None,
    )


def build_overview(tables: Sequence[AblationTable], name: str) -> Table | None:
    """Accuracy of every row in every setting; None if there is one table only, or no row is in two.

    Cells with fewer seeds than planned say so; the notes say why, and of cells without a number as well.
    """
    names = list(dict.fromkeys(row.name for table in tables for row in table.rows))
    found = {(row.name, i): _seen(row) for i, table in enumerate(tables) for row in table.rows}
    if len(tables) < 2 or not any(sum((n, i) in found for i in range(len(tables))) > 1 for n in names):
        return None
    columns = [Column("row", ""), *(Column(table.subset, table.subset, best="max") for table in tables)]
    rows = tuple((n, *(found.get((n, i)) for i in range(len(tables)))) for n in names)
    notes = [
        f"{table.subset}, “{absent.row}”: seed {absent.seed} {absent.reason}."
        for table in tables
        for absent in table.absent
    ]
    caption = "Top-1 accuracy (%), mean ± standard deviation over seeds, in every setting"
    return Table(name, caption, tuple(columns), rows, tuple(notes))


def _seen(row: AblationRow) -> Summary | None:
    """The accuracy; where seeds are missing, with how many were planned."""
    if row.accuracy is None or row.accuracy.n == row.planned:
        return row.accuracy
    return replace(row.accuracy, planned=row.planned)


def render_seeds_csv(tables: Sequence[AblationTable]) -> str:
    """``ablation_seeds.csv``: one line for every row and seed in the tables. Accuracies in percent."""
    settings = ("single", "ensemble")
    metrics = [
        SINGLE_TOP1,
        ENSEMBLE_TOP1,
        *(f"{setting}_{end}" for setting in settings for end in (*CLASS_SUMMARIES, *GROUPS)),
    ]
    header = ["subset", "row", "seed", "cell", "run_id", "accuracy", *metrics, "seconds"]
    rows: list[list[object]] = []
    for table in tables:
        for row in table.rows:
            for seed, run in sorted(table.selection.runs[row.name].items()):
                numbers = [value(run, name) for name in (headline(row.predict), *(TEST + m for m in metrics))]
                percent = [None if v is None else 100 * v for v in numbers]
                cells: list[object] = [table.subset, row.name, seed, run["cell"], run["run_id"]]
                rows.append([*cells, *percent, value(run, "total_seconds")])
    return markdown.csv_text(header, rows)
