"""Published tables as printed, with our rows where they belong and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.published import layouts
from analysis.published import numbers as published_numbers
from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import SweepRuns
from analysis.read.selection import by_cell
from analysis.statistics.seeds import Summary
from analysis.tables import ablation, comparison
from analysis.tables.record import Gain, Table, to_latex, to_markdown
from ltsearch.store.records import PublishedTable
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
    assert [(*c.over, c.heading) for c in table.columns[2:]] == [
        ("Ref.",), ("CIFAR100-LT", "100"), ("CIFAR100-LT", "50"), ("CIFAR10-LT", "100"), ("CIFAR10-LT", "50"),
    ]  # fmt: skip
    by_row = {(row[0], row[1]): row[2:] for row in table.rows}
    assert by_row["NCL++ (2 experts)", "published"] == (None, 56.3, 59.8, 87.2, 88.8)
    assert by_row["LFME", "published"] == ("ECCV'20", 42.3, None, None, None)
    assert by_row["CE (n=3)", "ours"] == (
        "this work",
        Summary(pytest.approx(41), pytest.approx(1), 3),
        None,
        None,
        None,
    )
    assert table.rows[-1][:2] == ("CE (n=3)", "ours") and table.groups == {0: "", 23: "", 26: "ours"}
    assert not any(str(row[0]).startswith("BIL") for row in table.rows)
    (why,) = [note for note in table.asides if note.startswith("Ours not in this table")]
    assert "“BIL”" in why and "augmentation sim instead of" in why


def test_two_papers_that_print_a_number_differently_are_both_told(runs: SweepRuns) -> None:
    notes = "\n".join(made(runs, [planned("CE")], "1").asides)
    assert "BBN, CIFAR-100 IF 100 ResNet-32: 39.4 here, 42.56 in DiVE" in notes
    assert "LFME, CIFAR-100 IF 100 ResNet-32: 42.3 here, 43.8 in DiVE" in notes


TABLES = list(dict.fromkeys((n.paper, n.table) for n in published_numbers.load()))


@pytest.mark.parametrize(("paper", "name"), TABLES)
def test_columns_of_every_published_table(runs: SweepRuns, paper: str, name: str) -> None:
    """A row has at most one number under a heading, and every number of the table stands in exactly one place."""
    numbers = published_numbers.table(paper, name)
    table = made(runs, [planned("CE")], name, paper)
    printed = [cell for row in table.rows if row[1] == "published" for cell in row[2:]]
    values = [c for c in printed if isinstance(c, float)] + [c.value for c in printed if isinstance(c, Gain)]
    gains = [c.gain for c in printed if isinstance(c, Gain)]
    assert sorted(values + gains) == sorted(n.value for n in numbers)
    headings = [(*c.over, c.heading) for c in table.columns[2:]]
    assert len(set(headings)) == len(headings) and all(heading[-1] for heading in headings)
    assert to_markdown(table)
    latex = to_latex(table)
    assert {character for character in latex if ord(character) > 127} == set()
    levels = max(len(c.over) for c in table.columns)
    assert latex.count(r" \\") == len(table.rows) + 1 + levels + sum(map(bool, table.groups.values()))


def test_every_layout_is_of_a_published_table() -> None:
    found = layouts.load()
    assert list(found) != [] and set(found) == set(TABLES)
    for key, layout in found.items():
        for group in layout.groups:
            assert not group.marks or len(group.marks) == len(group.rows), key
            assert all(set(marks) <= set(layout.parts) for marks in group.marks), key


@pytest.mark.parametrize(
    ("paper", "name", "row"),
    [
        ("ncl_pp", "7", ["BIL + IntraCL", "✓", "", "✓", "", "", "53.94"]),
        ("ncl_pp", "7", ["NCL++ [ensemble]", "✓", "✓", "✓", "✓", "✓", "**56.33**"]),
        ("ncl_pp", "9", ["40%", "44.04", "47.93 (+3.89)"]),
        ("dive", "6", ["#2", "", "t̃", "1", "✓", "<u>44.55</u>", "49.69", "<u>61.62</u>"]),
    ],
)
def test_parts_and_gains_are_printed(runs: SweepRuns, paper: str, name: str, row: list[str]) -> None:
    lines = to_markdown(made(runs, [planned("CE")], name, paper)).splitlines()
    assert row in [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ncl_pp: 3", "not layouts"),
        ("ncl_pp: {'1': {title: a, columns: [], groups: [], rows: 1}}", "rows"),
        ("[", "not layouts"),
    ],
)
def test_a_file_that_is_none_of_layouts(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "layouts.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        layouts.load(file)
    assert str(file) in str(error.value)


def test_a_table_that_does_not_exist(runs: SweepRuns) -> None:
    with pytest.raises(UserError, match=r"no table '11' of paper 'ncl_pp'.*known tables: dive 1, .*ncl_pp 10"):
        made(runs, [planned("CE")], "11")


TEXT = "text: RandAugment; released code: 400 epochs, AutoAugment + Cutout, best epoch on the test set"


@pytest.mark.parametrize(
    ("paper", "table", "note"),
    [
        ("ncl_pp", "1", "LDAM+DRW (45.1): 46.62 in the DiVE paper."),
        ("ncl_pp", "1", "ACE (4 experts) (49.6): Table 4 prints 49.4."),
        ("ncl_pp", "1", f"NCL++: {TEXT}, best expert."),
        ("ncl_pp", "1", f"BSCE (baseline), NCL++ (2 experts): {TEXT}."),
        ("ncl_pp", "1", "NCL++ (86.1), NCL++ (2 experts) (87.2): section 4.3 calls it imbalance 50."),
        ("ncl_pp", "4", "section 4.4 says that RandAugment gains about 3% to 5%; from here to 54.82 it is 6.06."),
        ("ncl_pp", "5", "NCL++ (2 experts) (8.24): twice the printed 4.11 is 8.22."),
        ("ncl_pp", "7", f"CE, BIL, BIL + NFL, BIL + IntraCL, NCL++ [ensemble]: {TEXT}."),
        ("dive", "8", "BSCE (5.29): printed 5.29 between 48.24 and 43.18: a digit seems to be lost."),
        ("dive", "3", "CE, BSCE, DiVE: augmentation: “standard strategies” of Goyal et al."),
    ],
)  # fmt: skip
def test_remarks_reach_the_printed_table(runs: SweepRuns, paper: str, table: str, note: str) -> None:
    notes = [line for line in to_markdown(made(runs, [planned("CE")], table, paper)).splitlines() if line[:2] == "- "]
    assert sum(line.endswith(note) for line in notes) == 1, notes


def test_every_note_is_printed_but_who_printed_it() -> None:
    """A note's parts, sorted by hand: sources, venues and “ensemble” are seen in the table, all others are told."""
    for paper, name in dict.fromkeys((n.paper, n.table) for n in published_numbers.load()):
        numbers = published_numbers.table(paper, name)
        told = comparison._remarks(numbers)
        assert len(told) == len(set(told))
        for n in numbers:
            said = [f"; {line.partition(': ')[2].rstrip('.')}; ".replace(".; ", "; ") for line in told if n.row in line]
            for part in filter(None, n.note.split("; ")):
                seen = part == "ensemble" or part.startswith("as printed by") or (len(part) < 12 and "'" in part)
                assert any(f"; {part.rstrip('.')}; " in parts for parts in said) != seen, (n, part)


def with_costs(runs: SweepRuns, rows: list, **costs: float) -> Table:
    """Table 5 with runs of these rows that have logged what they cost."""
    plan = runs.plan.model_copy(update={"rows": rows, "reference": rows[0].name})
    cells = {cell: {**run, **costs} for cell, run in by_cell(runs.frame).items()}
    asked = PublishedTable(paper="ncl_pp", table="5")
    return comparison.build(plan, ablation.build(plan, cells), asked, "published")


LARGE = {
    "augmentation__copies": 2,
    "data__name": "imagenet_lt", "data__image_size": 224, "data__imbalance__profile": "natural",
    "augmentation__policy": "rand", "model__backbone": "resnet50",
}  # fmt: skip


def test_costs_stand_beside_whatever_the_recipe(runs: SweepRuns) -> None:
    """A network costs the same after 40 epochs; an ensemble of K = 2 takes K times one expert's cost at test time."""
    rows = [planned("NCL++", over=LARGE), planned("NCL++ (ensemble)", "ensemble", over=LARGE)]
    table = with_costs(runs, rows, **{"cost/test_gmacs": 4.1, "cost/train_gmacs": 8.2})
    at = {c.heading: i for i, c in enumerate(table.columns)}
    single, ensemble = (row for row in table.rows if row[1] == "ours")
    for row, test in ((single, 4.1), (ensemble, 2 * 4.1)):
        assert row[at["Train"]] == pytest.approx(8.2)  # counted: there is no spread over seeds
        assert row[at["Test"]] == pytest.approx(test)
        assert row[at["Accuracy (%)"]] is None
    (why,) = [note for note in table.asides if note.startswith("Ours")]
    assert why == "Ours here with costs only: “NCL++”, “NCL++ (ensemble)”: epochs 400 instead of 200."


def test_costs_of_another_image_size_or_backbone_do_not(runs: SweepRuns) -> None:
    for over, told in (
        ({"data__image_size": 64}, "images of 64 pixels instead of 224"),
        ({"model__backbone": "resnet10"}, "backbone ResNet-10 instead of ResNet-50"),
    ):
        table = with_costs(runs, [planned("NCL++", over=LARGE | over)], **{"cost/test_gmacs": 4.1})
        assert all(row[1] == "published" for row in table.rows)
        assert f"Ours not in this table: “NCL++”: {told}." in table.asides


def test_what_differs_is_told_of_a_number_that_prints_its_epochs(runs: SweepRuns) -> None:
    """Of cited rows, which stand above, neither epochs nor augmentation are printed: as many deviations as of the paper's."""
    row = planned("CE", over={"training__epochs": 60, "augmentation__policy": "sim"})
    (why,) = [note for note in made(runs, [row], "1").asides if note.startswith("Ours")]
    told = "epochs 60 instead of 400, augmentation sim instead of rand or auto"
    assert why == f"Ours not in this table: “CE”: {told}."
