"""Published numbers: the table as printed, and the rule of when a number may stand beside ours."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.published import numbers as published_numbers
from analysis.published import recipes as published_recipes
from analysis.published.numbers import Number
from ltsearch.plan.layout import make_plan
from ltsearch.store.records import Published
from ltsearch.study.spec import load as load_study
from tests.analysis.conftest import config
from tests.conftest import ROOT
from trainables.errors import UserError


def test_table_7_as_printed() -> None:
    table = [n for n in published_numbers.load() if (n.paper, n.table) == ("ncl_pp", "7")]
    assert [(n.row, n.setting, n.value) for n in table] == [
        ("CE", "single", 44.79),
        ("BIL", "single", 50.60),
        ("BIL + NFL", "single", 51.24),
        ("BIL + InterCL", "single", 53.13),
        ("BIL + IntraCL", "single", 53.94),
        ("BIL + InterCL + IntraCL", "single", 54.36),
        ("NCL++", "single", 54.82),
        ("NCL++", "ensemble", 56.33),
    ]
    assert {(n.dataset, n.imbalance, n.backbone, n.epochs) for n in table} == {("cifar100", "100", "resnet32", 400)}


@pytest.mark.parametrize(
    ("paper", "tables"),
    [
        ("ncl_pp", {"1": 79, "2": 68, "3": 66, "4": 15, "5": 12, "6": 4, "7": 8, "8": 6, "9": 15, "10": 4}),
        ("dive", {"1": 28, "2": 29, "3": 23, "4": 20, "5": 12, "6": 21, "8": 66}),
        ("slides", {"2": 41, "3": 8, "4": 32}),  # table 1 has words only
    ],
)
def test_every_table_is_there(paper: str, tables: dict[str, int]) -> None:
    assert Counter(n.table for n in published_numbers.load() if n.paper == paper) == tables


def test_the_files_speak_one_language() -> None:
    numbers = published_numbers.load()
    assert {n.paper for n in numbers} == set(published_numbers.PAPERS)
    assert {n.dataset for n in numbers} == {"cifar10", "cifar100", "imagenet_lt", "places_lt", "inaturalist2018"}
    assert {n.backbone for n in numbers} == {"resnet10", "resnet32", "resnet50", "resnext50", "resnet152"}
    assert {n.imbalance for n in numbers} == {"1", "10", "50", "100", "200", "natural"}
    assert {n.setting for n in numbers} == {"single", "ensemble"}
    assert {n.metric for n in numbers} == {"top1", "top5", "train_top1", "difference", "train_gflops", "test_gflops"}
    assert {n.epochs for n in numbers} == {None, 30, 90, 200, 400}
    assert {p for n in numbers for p in n.augmentation} == {"sim", "rand", "auto", "mixup", "sim+jitter"}
    assert all(0 < n.value < 100 and 0 < n.data_ratio <= 1 for n in numbers)
    long_tailed = {"imagenet_lt", "places_lt", "inaturalist2018"}
    assert all((n.imbalance == "natural") == (n.dataset in long_tailed) for n in numbers)


def test_no_cell_twice() -> None:
    cells = Counter(replace(n, value=0.0, note="") for n in published_numbers.load())
    assert [cell for cell, count in cells.items() if count > 1] == []


def test_find_names_what_there_is() -> None:
    found = published_numbers.find(Published(paper="ncl_pp", table="7", row="NCL++", setting="ensemble"))
    assert [n.value for n in found] == [56.33]
    with pytest.raises(UserError, match=r"no table '99'.*known papers: dive, .*; known tables: .*ncl_pp 7"):
        published_numbers.find(Published(paper="ncl_pp", table="99", row="CE"))
    with pytest.raises(UserError, match=r"no table '1' of paper 'nclpp'; known papers: dive, ncl_pp, slides; "):
        published_numbers.find(Published(paper="nclpp", table="1", row="CE"))
    with pytest.raises(UserError, match=r"no row 'XE' in the setting 'single'; known: 'CE' single"):
        published_numbers.find(Published(paper="ncl_pp", table="7", row="XE"))


@pytest.mark.parametrize(
    ("table", "row", "setting", "values"),
    [
        ("1", "NCL++", "single", [54.8, 58.2, 86.1, 88.0]),
        ("2", "NCL++ (2 experts)", "ensemble", [49.9, 59.6, 60.9, 42.4]),
        ("3", "NCL++", "single", [74.0]),  # not its shot groups
        ("4", "BSCE+NCL++", "single", [48.76, 54.82, 51.37]),
        ("4", "BSCE+NCL++", "ensemble", [51.57, 56.33, 53.38]),
        ("5", "NCL++ (2 experts)", "single", [58.0]),  # not its FLOPs
        ("6", "Learnable", "single", [54.5]),  # not on the training set
        ("8", "NCL++", "single", [67.06, 76.88]),
        ("9", "NCL++ 20%", "single", [44.24]),  # not the difference
        ("10", "NCL++ (ours)", "single", [54.8]),
    ],
)
def test_find_takes_headlines_only(table: str, row: str, setting: str, values: list[float]) -> None:
    found = published_numbers.find(Published(paper="ncl_pp", table=table, row=row, setting=setting))
    assert [n.value for n in found] == values


def number(paper: str, table: str, row: str, dataset: str, imbalance: str) -> Number:
    found = published_numbers.find(Published(paper=paper, table=table, row=row))
    (one,) = [n for n in found if (n.dataset, n.imbalance) == (dataset, imbalance)]
    return one


@pytest.mark.parametrize(
    ("row", "imbalance", "value", "others"),
    [
        ("BBN", "100", 39.4, [("dive", 42.56), ("slides", 42.56)]),
        ("LFME", "100", 42.3, [("dive", 43.80), ("slides", 43.8)]),
        ("DiVE", "50", 51.3, [("dive", 51.13)]),
        ("LDAM+DRW", "50", 45.1, [("dive", 46.62)]),
        ("Xu et al.", "50", 51.1, []),  # has no method
        ("NCL++", "50", 58.2, []),  # only its own paper
    ],
)
def test_what_other_papers_print(row: str, imbalance: str, value: float, others: list[tuple[str, float]]) -> None:
    one = number("ncl_pp", "1", row, "cifar100", imbalance)
    assert one.value == value
    assert [(n.paper, n.value) for n in published_numbers.elsewhere(one)] == others


def test_elsewhere_works_both_ways_and_keeps_recipes() -> None:
    bbn = number("dive", "1", "BBN", "cifar100", "100")
    assert [(n.paper, n.value) for n in published_numbers.elsewhere(bbn)] == [("ncl_pp", 39.4), ("slides", 42.56)]
    found = published_numbers.elsewhere(number("dive", "1", "CE", "cifar100", "100"))
    assert [(n.value, n.augmentation) for n in found] == [
        (41.68, ("sim",)),
        (44.79, ("rand", "auto")),  # Tables 4 and 7
        (41.85, ("mixup",)),
    ]
    assert published_numbers.elsewhere(bbn, (bbn,)) == []


def test_disagreements_are_noted() -> None:
    """Where a paper's number of another's method is not just rounded differently, the note has the other number."""
    for one in published_numbers.load():
        for other in published_numbers.elsewhere(one):
            cited = one.epochs is None or other.epochs is None
            if cited and abs(one.value - other.value) > 0.0501:
                assert f"{other.value:g}" in one.note or f"{other.value:.2f}" in one.note, (one, other)


@pytest.mark.parametrize(
    ("paper", "table", "value", "note"),
    [
        ("ncl_pp", "1", 86.1, "section 4.3 calls it imbalance 50"),
        ("ncl_pp", "1", 87.2, "section 4.3 calls it imbalance 50"),
        ("ncl_pp", "2", 53.1, "the DiVE paper prints 53.10 for ResNeXt-50"),
        ("ncl_pp", "2", 55.1, "Table 5 prints it for 3 experts"),
        ("ncl_pp", "4", 49.4, "Table 1 prints 49.6"),
        ("ncl_pp", "4", 48.76, "about 3% to 5%"),
        ("ncl_pp", "5", 17.03, "section 4.4 says two experts"),
        ("ncl_pp", "5", 8.24, "twice the printed 4.11 is 8.22"),
        ("dive", "4", 66.43, "66.29 in Table 3"),
        ("dive", "8", 5.29, "a digit seems to be lost"),
        ("slides", "4", 83.11, "82.73, 81.82 and 82.66"),
    ],
)
def test_contradictions_are_noted(paper: str, table: str, value: float, note: str) -> None:
    found = [n for n in published_numbers.load() if (n.paper, n.table, n.value) == (paper, table, value)]
    assert any(note in n.note for n in found), [n.note for n in found]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("paper,table,value\na,b,c\n")
    with pytest.raises(UserError, match=r"x\.csv, line 2"):
        published_numbers.load(tmp_path)


CE = Published(paper="ncl_pp", table="7", row="CE")
ONE = {"method__name": "ce", "model__experts": 1, "augmentation__copies": 1}


@pytest.mark.parametrize("policy", ["rand", "auto"])
def test_the_papers_setting_is_comparable(policy: str) -> None:
    (number,) = published_numbers.find(CE)
    assert published_numbers.deviations(number, config(**ONE, augmentation__policy=policy)) == []
    assert published_numbers.deviations(number, config(**ONE, data__image_size=32)) == []


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"data__name": "cifar10"}, "dataset CIFAR-10 instead of CIFAR-100"),
        ({"data__imbalance__factor": 50.0}, "imbalance 50 instead of 100"),
        ({"data__imbalance__profile": "natural"}, "imbalance natural instead of 100"),
        ({"data__imbalance__profile": "step"}, "a step profile"),
        ({"data__imbalance__subset_seed": 3}, "subset seed 3 instead of 0"),
        ({"model__backbone": "resnet8"}, "backbone ResNet-8 instead of ResNet-32"),
        ({"training__epochs": 60}, "epochs 60 instead of 400"),
        ({"augmentation__policy": "sim"}, "augmentation sim instead of rand or auto"),
        ({"data__image_size": 16}, "images of 16 pixels instead of 32"),
        ({"data__data_ratio": 0.2}, "data_ratio 0.2 instead of 1"),
        ({"data__val_per_class": 5}, "val_per_class 5 instead of 0"),
        ({"data__name": "parquet", "data__path": "sets/caltech101"}, "dataset Caltech-101 instead of CIFAR-100"),
    ],
)
def test_what_differs_is_named(over: dict[str, object], expected: str) -> None:
    (number,) = published_numbers.find(CE)
    assert published_numbers.deviations(number, config(**{**ONE, **over})) == [expected]


def test_a_network_that_only_shares_the_data_is_not_comparable() -> None:
    """What decides a number is more than data, backbone, epochs and augmentation."""
    (number,) = published_numbers.find(Published(paper="ncl_pp", table="7", row="NCL++"))
    assert number.value == 54.82
    whole = {"optimizer": {"lr": 0.1, "momentum": 0.9}, "training": {"epochs": 400, "batch_size": 64, "accumulate": 1}}
    assert published_numbers.deviations(number, {**config(), **whole}) == []
    other = {**config(method__name="ce", model__experts=7, augmentation__copies=1), "optimizer": {"lr": 0.001}}
    other["training"] = {"epochs": 400, "batch_size": 512, "accumulate": 1}
    assert published_numbers.deviations(number, other) == [
        "optimizer.lr 0.001 instead of 0.1",
        "images a step 512 instead of 64",
        "model.experts 7 instead of 2",
        "augmentation.copies 1 instead of 4",
        "method.name ce instead of ncl_pp",
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("BIL + NFL", {"inter": False, "intra": False, "nfl": True, "experts": 1, "copies": 1}),
        ("BIL + InterCL", {"inter": True, "intra": False, "nfl": False, "experts": 2, "copies": 1}),
        ("BIL + InterCL + IntraCL", {"inter": True, "intra": True, "nfl": False, "experts": 2, "copies": 4}),
        ("NCL++", {"inter": True, "intra": True, "nfl": True, "experts": 2, "copies": 4}),
    ],
)
def test_what_a_row_of_table_7_is_made_of(row: str, expected: dict[str, object]) -> None:
    (number,) = published_numbers.find(Published(paper="ncl_pp", table="7", row=row))
    found = published_recipes.recipe(number)
    assert {key: value for key, value in found.items() if key.split(".")[1:] and key.split(".")[1] in expected} == {
        ("method." if key in ("inter", "intra", "nfl") else "model." if key == "experts" else "augmentation.")
        + key: value
        for key, value in expected.items()
    }


STUDIES = sorted(path for path in (ROOT / "search_spaces").rglob("*.yaml") if path.parent.name != "shared")
WITH_PAPER = [path for path in STUDIES if "\n  paper:" in path.read_text() or path.parent.name in ("methods", "ncl_pp")]


@pytest.mark.parametrize("path", WITH_PAPER, ids=lambda path: path.stem)
def test_only_rows_that_answer_to_a_number_stand_beside_it(path: Path) -> None:
    """In the tables that the report prints; an ensemble has the recipe of its single row."""
    plan = make_plan(load_study(path, "paper"))
    for asked in plan.loaded.spec.report.published:
        numbers = [n for n in published_numbers.table(asked.paper, asked.table) if not n.metric.endswith("gflops")]
        for row in (row.record() for row in plan.rows):
            if row.predict == "single":
                own = published_numbers.find(row.published)[0] if row.published else None
                known = (own.method or own.row) if own else row.config["method"]["name"]
                beside = {n.method or n.row for n in numbers if not published_numbers.deviations(n, row.config)}
                assert beside <= {known}, f"{row.label} would stand beside {beside}"


@pytest.mark.parametrize("path", WITH_PAPER, ids=lambda path: path.stem)
def test_the_profile_paper_is_made_as_the_papers_own_rows_were(path: Path) -> None:
    """Every row that answers to a number of the paper's own; the rest is said where it cannot be."""
    apart: dict[str, list[str]] = {}
    for row in (row.record() for row in make_plan(load_study(path, "paper")).rows):
        numbers = published_numbers.find(row.published) if row.published else []
        found = min((published_numbers.deviations(n, row.config) for n in numbers if n.epochs), key=len, default=[])
        if found and not (path.stem == "cifar_lt_comparison" and "own recipes" not in row.setting):
            apart[row.label] = found
    known = {
        "cifar_lt_comparison": {
            "dataset CIFAR-10 instead of CIFAR-100",
            "imbalance 50 instead of 100",
        },  # not in Table 5
        "dive_table3": {"epochs 200 instead of 90"},  # which CE is not printed for
        "dive_table5": {"method.name ride_routing instead of dive"},  # what stands beside it is not routed
    }
    assert all({*found} <= known.get(path.stem, set()) for found in apart.values()), apart


def test_table_9_is_compared_at_its_ratio() -> None:
    (fifth,) = published_numbers.find(Published(paper="ncl_pp", table="9", row="NCL++ 20%"))
    ratio = "data_ratio 1 instead of 0.2"
    assert ratio in published_numbers.deviations(fifth, config())
    assert ratio not in published_numbers.deviations(fifth, config(data__data_ratio=0.2))


def test_balanced_cifar_is_imbalance_1() -> None:
    small, large = published_numbers.find(Published(paper="ncl_pp", table="8", row="CE"))
    balanced = config(**ONE, data__imbalance__factor=1.0)
    assert published_numbers.deviations(large, balanced) == []
    assert published_numbers.deviations(small, balanced) == ["backbone ResNet-32 instead of ResNet-10"]


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({}, []),
        ({"training__epochs": 3, "augmentation__policy": "sim", "data__data_ratio": 0.1, "data__val_per_class": 2}, []),
        ({"data__image_size": 64}, ["images of 64 pixels instead of 224"]),
        ({"model__backbone": "resnet8"}, ["backbone ResNet-8 instead of ResNet-50"]),
        ({"data__name": "places_lt"}, ["dataset Places-LT instead of ImageNet-LT"]),
    ],
)
def test_a_recipe_does_not_change_what_a_network_costs(over: dict[str, object], expected: list[str]) -> None:
    table = published_numbers.table("ncl_pp", "5")
    large = {"data__name": "imagenet_lt", "data__imbalance__profile": "natural", "model__backbone": "resnet50", **over}
    costs = [published_numbers.deviations(n, config(**large)) for n in table if n.metric.endswith("gflops")]
    assert costs == [expected] * 8
    accuracies = [published_numbers.deviations(n, config(**large)) for n in table if n.metric == "top1"]
    assert all(len(found) > len(expected) for found in accuracies)
