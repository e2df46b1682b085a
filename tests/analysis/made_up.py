"""``python -m tests.analysis.made_up OUT``: every table of the papers with rows of ours, whose numbers are made up.

To look at layouts: the studies of ``search_spaces`` at the papers' own recipes, each cell with numbers that a hash of its id
gives. No such number is a result, and every page says so.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from analysis.page import html
from analysis.page.document import Document
from analysis.published import numbers as published_numbers
from analysis.read.finals import Finals
from analysis.read.runs import SweepRuns, frame, row_of
from analysis.read.selection import by_cell
from analysis.tables import ablation, comparison
from analysis.tables.record import Table
from ltsearch.plan import costs
from ltsearch.plan.cells import Cell, Plan
from ltsearch.plan.layout import make_plan
from ltsearch.store.ids import recipes
from ltsearch.store.records import GROUPS, SHIFTED_TESTS, CellRecord, Epoch, PlanRecord, Status
from ltsearch.study.spec import load
from trainables.cost import count

STUDIES = Path(__file__).resolve().parents[2] / "search_spaces"
WARNING = "made up: ours here are no results"


def tables() -> Iterator[tuple[str, str, Table]]:
    """Paper, number and table, for every table that a study asks for."""
    for path in sorted(STUDIES.glob("*/*.yaml")):
        plan = make_plan(load(path))
        asked = plan.loaded.spec.report.published
        if not asked:
            continue
        record = PlanRecord(
            sweep=plan.loaded.sweep,
            name=plan.loaded.spec.name,
            profile=None,
            question="",
            rows=[row.record() for row in plan.rows],
            reference=plan.reference,
        )
        found = ablation.build(record, by_cell(frame(row_of(made_up(cell, plan)) for cell in plan.cells)))
        for one in asked:
            name = f"published_{one.paper}_{one.table}"
            yield one.paper, one.table, comparison.build(record, found, one, name, MadeUp())


class MadeUp:
    """What runs keep: accuracies under shifted test distributions."""

    name = "made up"

    def final(self, cell: str) -> Finals | None:
        """Falling from the training set's order to the other way round."""
        start = 0.7 + (zlib.crc32(cell.encode()) % 100) / 1000
        falling = np.linspace(start, start - 0.3, len(SHIFTED_TESTS))
        return Finals({f"shifted_{kind}": np.stack([falling, falling]) for kind in ("single", "ensemble")})

    def sweep(self, name: str) -> SweepRuns:
        """Of a store; not asked for here."""
        raise NotImplementedError

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """Of a store; not asked for here."""
        raise NotImplementedError


def made_up(cell: Cell, plan: Plan) -> CellRecord:
    """A finished cell; what it costs is counted."""
    config = cell.config
    random = np.random.default_rng(zlib.crc32(cell.id.encode()))
    metrics = {"train/top1": float(random.uniform(0.7, 0.99)), "seconds": 1.0}
    for kind in ("single", "ensemble"):
        accuracy = float(random.uniform(0.4, 0.6))
        metrics |= {f"test/{kind}_{name}": accuracy for name in ("top1", "class_mean")}
        metrics |= {f"test/{kind}_top5": accuracy + 0.3}
        metrics |= {
            f"test/{kind}_{group}": accuracy + step for group, step in zip(GROUPS, (0.2, 0.0, -0.2), strict=True)
        }
    classes, pixels = costs._KNOWN[config.data.name]
    found = count(config.model, classes, config.data.image_size or pixels or 224, config.augmentation.copies)
    metrics |= {f"cost/{name}": value for name, value in asdict(found).items()}
    return CellRecord(
        cell=cell.id,
        config=config.model_dump(mode="json"),
        recipes=recipes(config),
        status=Status.FINISHED,
        class_counts=[10, 5],
        class_names=["a", "b"],
        history=[Epoch(epoch=config.loop.epochs, metrics=metrics)],
    )


def write(folder: Path) -> Document:
    """``report.md``, ``report.html`` and a CSV and LaTeX file for every table."""
    document = Document(folder, "made_up")
    document.say("# Tables of the papers", f"**Every number of a row that ends in (n=…) is {WARNING}.**")
    for paper, number, table in tables():
        document.say(f"## {published_numbers.PAPERS[paper]}, Table {number}")
        document.table(table)
    document.write()
    html.write(document, "Tables of the papers")
    return document


if __name__ == "__main__":
    write(Path(sys.argv[1]))
