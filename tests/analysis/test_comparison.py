"""Published tables as printed, with our rows where they belong and nowhere else."""

from __future__ import annotations

import pytest

from analysis import ablation, comparison
from analysis.selection import by_cell
from analysis.statistics import Summary
from analysis.store import SweepRuns, TrackingStore
from analysis.table import to_markdown
from ltsearch.records import PublishedTable
from tests.analysis.conftest import SWEEP, Store, planned
from trainables.errors import UserError


@pytest.fixture(scope="module")
def runs(store: Store) -> SweepRuns:
    return TrackingStore(store.uri).sweep(SWEEP)


def made(runs: SweepRuns, rows: list, table: str, paper: str = "ncl_pp"):
    plan = runs.plan.model_copy(update={"rows": rows, "reference": rows[0].name})
    tables = ablation.build(plan, by_cell(runs.frame))
    return comparison.build(plan, tables, PublishedTable(paper=paper, table=table), "published")


def test_our_rows_stand_where_they_were_made_the_same_way(runs: SweepRuns) -> None:
    table = made(runs, [planned("CE"), planned("BIL", over={"augmentation__policy": "sim"})], "1")
    headings = [c.heading for c in table.columns]
    assert headings[2:] == ["cifar100 IF 100", "cifar100 IF 50", "cifar10 IF 100", "cifar10 IF 50"]
    by_row = {(row[0], row[1]): row for row in table.rows}
    assert by_row["NCL++ (2 experts)", "published"][2:] == (56.3, 59.8, 87.2, 88.8)
    ours = by_row["CE", "ours, n=3"]
    assert ours[2] == Summary(pytest.approx(41), pytest.approx(1), 3) and ours[3:] == (None, None, None)
    assert not any(row[0] == "BIL" for row in table.rows)
    (why,) = [note for note in table.notes if note.startswith("Ours not in this table")]
    assert "“BIL”" in why and "augmentation sim instead of" in why


def test_two_papers_that_print_a_number_differently_are_both_told(runs: SweepRuns) -> None:
    notes = "\n".join(made(runs, [planned("CE")], "1").notes)
    assert "BBN, cifar100 IF 100 resnet32: 39.4 here, 42.56 in DiVE" in notes
    assert "LFME, cifar100 IF 100 resnet32: 42.3 here, 43.8 in DiVE" in notes


def test_columns_of_every_published_table(runs: SweepRuns) -> None:
    """A row has at most one number under a heading, and every number of the table stands somewhere."""
    from analysis import published_numbers

    for paper, name in dict.fromkeys((n.paper, n.table) for n in published_numbers.load()):
        table = made(runs, [planned("CE")], name, paper)
        shown = sum(isinstance(cell, float) for row in table.rows if row[1] == "published" for cell in row[2:])
        assert shown == len(published_numbers.table(paper, name)), (paper, name)
        headings = [c.heading for c in table.columns[2:]]
        assert len(set(headings)) == len(headings) and all(headings), (paper, name, headings)
        assert to_markdown(table)


def test_a_table_that_does_not_exist(runs: SweepRuns) -> None:
    with pytest.raises(UserError, match=r"no table '11' of paper 'ncl_pp'.*known tables: dive 1, .*ncl_pp 10"):
        made(runs, [planned("CE")], "11")
