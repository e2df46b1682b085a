"""Published numbers against the papers: every table is read back out of the texts that ``LTSEARCH_PAPERS`` points at.

The numbers were typed from the texts; here the tables are found by what stands before and after them and taken apart
line by line. NCL++ lies there twice: the preprint has lost dashes, marks and columns, the journal version has them.
The extraction also left debris, all of it listed in ``DEBRIS`` and ``label``: table 8 of the journal version is headed
"Table 6 … Table O", its table 6 is there one and a half times, symbols are gone from DiVE and so are its captions.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from analysis.published import numbers as published_numbers
from analysis.published.numbers import Number

TEXTS = {  # what a text says that no other does
    "preprint": r"\nTable 1: Comparisons on CIFAR100-LT and CIFAR10-LT",
    "journal": r"journal homepage: www\.elsevier\.com/locate/pr",
    "dive": r"\ADistilling Virtual Examples for Long-tailed Recognition",
    "slides": r"\nQingHeng Zhang\n",
}
PAPER = {"preprint": "ncl_pp", "journal": "ncl_pp", "dive": "dive", "slides": "slides"}

MARKED = r"\^a Indicates the ensemble"
REGIONS = {  # (text, table) -> what stands before and after its lines
    ("preprint", "1"): ("Table 1: Comparisons", "Table 2: "),
    ("preprint", "2"): ("Table 2: Comparisons", "Table 3: "),
    ("preprint", "3"): ("Table 3: Comparisons", "4.3 Comparisons to Prior Arts"),
    ("preprint", "4"): ("Table 4: Comparisons", "Analysis on computation cost"),
    ("preprint", "5"): ("Table 5: Comparisons", r"evaluating the model with a single"),
    ("preprint", "6"): ("Table 6: Comparisons", "Ablations studies on all"),
    ("preprint", "7"): ("Table 7: Ablation", "Refer to caption"),
    ("preprint", "8"): ("Table 8: Comparisons", "Refer to caption"),
    ("preprint", "9"): ("Table 9: The impact", "Table 10: "),
    ("preprint", "10"): ("Table 10: Comparisons", "Comparisons to contrastive"),
    ("journal", "1"): ("Table 1\n\nComparisons", MARKED),
    ("journal", "2"): ("Table 2\n\nComparisons", MARKED),
    ("journal", "3"): ("Table 3\n\nComparisons", MARKED),
    ("journal", "4"): ("Table 4Comparisons", MARKED),
    ("journal", "5"): ("Table 5\n\nComparisons", r"\^a Evaluating the model"),
    ("journal", "6"): ("Table 6\n\nComparisons", "Fixed vs. learnable"),
    ("journal", "7"): ("Table 7\n\nAblation", "like IntraCL"),
    ("journal", "8"): (r"Table 6\s*\nComparisons on\s+CIFAR100 dataset", "Table O"),
    ("journal", "9"): ("Table 9\n\nThe impact", "Table 10\n"),
    ("journal", "10"): ("Table 10\n\nComparisons", "For example, our NCL"),
    ("dive", "1"): (r"Methods \| Imbalance factor", "Results on CIFAR-100-LT"),
    ("dive", "2"): (r"Methods \| Many", "DiVE almost obtains"),
    ("dive", "3"): (r"Methods \| 90 epochs", "We further break"),
    ("dive", "4"): ("We further break the accuracy", "Results of RIDE-DiVE"),
    ("dive", "5"): (r"Methods \| C100-LT", "4.4 Further Analyses"),
    ("dive", "6"): (r"BSCE \| / \| power", "In this final part"),
    ("dive", "8"): (r"Dataset \| Forward", "Appendix D"),
    ("slides", "1"): ("Method\tData for experts", r"Table 1\."),
    ("slides", "2"): ("Method\tLong-tailed CIFAR10", r"Table 2\."),
    ("slides", "3"): ("Method\tLong-tailed ImageNet", r"Table 3\."),
    ("slides", "4"): ("Ablation\n", r"Table 4\."),
}
# What the extraction put in front of the cells, whose numbers all stand in the cells as well.
DEBRIS = {("journal", "6"): r"(?m)^(Fixed|Learnable)? ?[\d. A-Za-z]*\t"}

CIFAR_NCL = [{"dataset": d, "imbalance": i} for d in ("cifar100", "cifar10") for i in ("100", "50")]
CIFAR_DIVE = [{"imbalance": i} for i in ("100", "50", "10")]
CIFAR_SLIDES = [{"dataset": d, "imbalance": i} for d in ("cifar10", "cifar100") for i in ("200", "100", "50", "10")]
SHOTS = [{"split": s} for s in ("many", "medium", "few", "all")]
SHIFTS = ["forward 50", "forward 25", "forward 10", "forward 5", "forward 2", "all"]
SHIFTS += ["backward 2", "backward 5", "backward 10", "backward 25", "backward 50"]
COLUMNS: dict[tuple[str, str], list[dict[str, Any]]] = {  # (paper, table) -> what a number in each column has
    ("ncl_pp", "1"): CIFAR_NCL,
    ("ncl_pp", "2"): [
        {"dataset": d, "backbone": b}
        for d, b in [
            ("imagenet_lt", "resnet10"),
            ("imagenet_lt", "resnet50"),
            ("imagenet_lt", "resnext50"),
            ("places_lt", "resnet152"),
        ]
    ],
    ("ncl_pp", "3"): SHOTS,
    ("ncl_pp", "4"): [{"augmentation": (("sim",),)}, {"augmentation": (("rand", "auto"), ("rand",))}]
    + [{"augmentation": (("mixup",),)}],
    ("ncl_pp", "5"): [{"metric": m} for m in ("train_gflops", "test_gflops", "top1")],
    ("ncl_pp", "6"): [{"metric": m} for m in ("train_top1", "top1")],
    ("ncl_pp", "7"): [{}],
    ("ncl_pp", "8"): [{"backbone": b} for b in ("resnet10", "resnet32")],
    ("ncl_pp", "9"): [{"method": "bsce"}, {"method": "ncl_pp", "metric": "top1"}, {"metric": "difference"}],
    ("ncl_pp", "10"): [{}],
    ("dive", "1"): CIFAR_DIVE,
    ("dive", "2"): SHOTS,
    ("dive", "3"): [{"epochs": e, "metric": m} for e in (90, 200) for m in ("top1", "top5")],
    ("dive", "4"): SHOTS,
    ("dive", "5"): [
        {"dataset": "cifar100", "imbalance": "100", "backbone": "resnet32"},
        {"dataset": "imagenet_lt", "imbalance": "natural", "backbone": "resnext50"},
        {"dataset": "inaturalist2018", "imbalance": "natural", "backbone": "resnet50"},
    ],
    ("dive", "6"): CIFAR_DIVE,
    ("dive", "8"): [{"split": s} for s in SHIFTS],
    ("slides", "2"): CIFAR_SLIDES,
    ("slides", "3"): [{}],
    ("slides", "4"): CIFAR_SLIDES,
}
C100_NCL = {"dataset": "cifar100", "imbalance": "100", "backbone": "resnet32"}
C100_DIVE = {"dataset": "cifar100", "backbone": "resnet32"}
IMAGENET = {"dataset": "imagenet_lt", "imbalance": "natural"}
INAT = {"dataset": "inaturalist2018", "imbalance": "natural", "backbone": "resnet50"}
FIXED: dict[tuple[str, str], dict[str, Any]] = {  # what all numbers of a table have
    ("ncl_pp", "1"): {"backbone": "resnet32"},
    ("ncl_pp", "2"): {"imbalance": "natural"},
    ("ncl_pp", "3"): INAT,
    ("ncl_pp", "4"): C100_NCL,
    ("ncl_pp", "5"): IMAGENET | {"backbone": "resnet50"},
    ("ncl_pp", "6"): C100_NCL,
    ("ncl_pp", "7"): C100_NCL,
    ("ncl_pp", "8"): {"dataset": "cifar100", "imbalance": "1"},
    ("ncl_pp", "9"): IMAGENET | {"backbone": "resnet10"},
    ("ncl_pp", "10"): C100_NCL,
    ("dive", "1"): C100_DIVE,
    ("dive", "2"): IMAGENET | {"backbone": "resnext50"},
    ("dive", "3"): INAT,
    ("dive", "4"): INAT,
    ("dive", "5"): {},
    ("dive", "6"): C100_DIVE,
    ("dive", "8"): IMAGENET | {"backbone": "resnext50"},
    ("slides", "2"): {"backbone": "resnet32"},
    ("slides", "3"): IMAGENET | {"backbone": "resnet10"},
    ("slides", "4"): {"backbone": "resnet32"},
}
HEADLINE = {"metric": "top1", "split": "all"}  # of every number, unless its column says otherwise
ENSEMBLES = {  # where no mark is printed: rows that predict with all experts
    ("ncl_pp", "5"): {"TLC (3 experts)"},
    ("dive", "5"): {"RIDE teacher", "RIDE", "RIDE-DiVE teacher", "RIDE-DiVE"},
    ("slides", "2"): {"RIDE(21)", "Ours"},
    ("slides", "3"): {"Ours"},
    ("slides", "4"): {"Ours(w/o diversity)", "Ours(diversity+TA)"},
}
RIDE_AS_SOTA = "SOTA", 49.1  # the slides repeat RIDE's number as the best one

DECIMAL = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Line:
    """One line of a table: its label, its columns (``None``: no number), which of them are marked ``^a``."""

    label: str
    cells: tuple[float | None, ...]
    marked: tuple[bool, ...]


def text_of(name: str) -> str:
    folder = os.environ.get("LTSEARCH_PAPERS")
    if not folder:
        pytest.skip("LTSEARCH_PAPERS does not point at the papers' texts")
    texts = [file.read_text(encoding="utf-8") for file in sorted(Path(folder).glob("*.txt"))]
    found = [text for text in texts if re.search(TEXTS[name], text)]
    assert len(found) == 1, f"{len(found)} texts in {folder} look like the {name}"
    return found[0]


def region(name: str, table: str) -> str:
    """Everything of a table, caption included where it stands above."""
    before, after = REGIONS[name, table]
    found = re.search(rf"(?ms)^{before}[^\n]*\n(.*?)^\s*{after}", text_of(name))
    assert found, f"{name}: no table {table}"
    body = found.group(1)
    if (name, table) in DEBRIS:
        clean = re.sub(DEBRIS[name, table], "", body)
        assert set(DECIMAL.findall(clean)) == set(DECIMAL.findall(body)), "debris with numbers of its own"
        body = clean
    return body


def label(printed: str) -> str:
    """Drop references, venues and marks; restore what the extraction did to symbols."""
    text = re.sub(r"<i>τ</i> |τ𝜏\\tauitalic_τ", "τ", printed)
    text = re.sub(r"\^a|\[\d+\]|\b[A-Za-z]+[’']\d\d\b", "", text)
    text = re.sub(r"^# ", "#", re.sub(r"\s+", " ", text).strip())
    return "τ-norm" if text == "-norm" else text


def lines(name: str, table: str) -> list[Line]:
    """The lines of a table that have a number."""
    found = []
    for line in region(name, table).splitlines():
        if not DECIMAL.search(line):
            continue
        if name == "preprint":  # no cells: a label and numbers
            start = DECIMAL.search(line).start()  # type: ignore[union-attr]
            head, cells = line[:start], DECIMAL.findall(line[start:])
        else:
            head, *cells = line.split("\t") if "\t" in line else line.removesuffix("|").split("|")
        if name == "journal":
            if table in ("1", "2", "3"):
                cells = cells[1:]  # the reference
            elif table == "7":
                head, cells = "\t".join([head, *cells[:-1]]), cells[-1:]
            elif table == "9":
                cells = [cells[0], *DECIMAL.findall(cells[1])]
        if (name, table) == ("dive", "6"):
            cells = [cell for cell in cells if cell.strip()][-3:]  # behind the switches, whose symbols are lost
        numbers = [DECIMAL.findall(cell) for cell in cells]
        assert all(len(n) <= 1 for n in numbers), f"{name}, table {table}: two numbers in a cell: {line}"
        marks = tuple("^a" in head or "^a" in cell for cell in cells)
        found.append(
            Line(head if table == "7" else label(head), tuple(float(n[0]) if n else None for n in numbers), marks)
        )
    return found


def numbers_of(paper: str, table: str) -> list[Number]:
    return [n for n in published_numbers.load() if (n.paper, n.table) == (paper, table)]


def row_of(number: Number) -> str:
    """What stands in front of a number's line: of table 9 the data ratio alone."""
    return number.row.split()[-1] if (number.paper, number.table) == ("ncl_pp", "9") else number.row


def component_label(marks: str) -> tuple[str, str]:
    """Name a line of table 7 by its check marks, which the extraction reads as ✓ or 1."""
    bil, inter, intra, nfl, ensemble = (bool(mark.strip()) for mark in marks.split("\t"))
    names = [n for n, on in (("BIL", bil), ("NFL", nfl), ("InterCL", inter), ("IntraCL", intra)) if on]
    return "NCL++" if len(names) == 4 else " + ".join(names) or "CE", "ensemble" if ensemble else "single"


TABLES = list(REGIONS)


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_every_number_of_a_table_and_no_other(name: str, table: str) -> None:
    """Numbers alone, whatever line they are on: a line that nothing reads cannot hide one."""
    printed = Counter(float(x) for x in DECIMAL.findall(region(name, table)))
    assert printed == Counter(n.value for n in numbers_of(PAPER[name], table))
    assert printed or (name, table) == ("slides", "1")  # that one has words only


@pytest.mark.parametrize(("name", "table"), TABLES)
def test_every_row_as_it_is_printed(name: str, table: str) -> None:
    """Row by row, in the order of printing."""
    printed: dict[str, list[float]] = {}
    for line in lines(name, table):
        printed.setdefault(line.label, []).extend(cell for cell in line.cells if cell is not None)
    ours: dict[str, list[float]] = {}
    for number in numbers_of(PAPER[name], table):
        ours.setdefault(row_of(number), []).append(number.value)
    if table == "7":  # without row labels: see below
        assert [v for row in printed.values() for v in row] == [v for row in ours.values() for v in row]
    else:
        assert printed == ours


@pytest.mark.parametrize(("name", "table"), [key for key in TABLES if key[0] != "preprint" and key != ("slides", "1")])
def test_every_cell_in_its_column(name: str, table: str) -> None:
    """Data set, imbalance, backbone, setting, metric, split and epochs are those of the cell."""
    columns = COLUMNS[PAPER[name], table]
    with_setting = name == "journal" and table in ("1", "2", "3", "4", "7")  # the other texts mark no ensembles
    printed = []
    for line in lines(name, table):
        assert len(line.cells) == len(columns), line
        for column, (value, marked) in enumerate(zip(line.cells, line.marked, strict=True)):
            row, setting = (
                component_label(line.label) if table == "7" else (line.label, "ensemble" if marked else "single")
            )
            if value is not None:
                printed.append((row, setting if with_setting else "", column, value))
    ours = []
    for number in numbers_of(PAPER[name], table):
        fits = [k for k, column in enumerate(columns) if all(_has(number, key, v) for key, v in column.items())]
        assert len(fits) == 1, number
        ours.append((row_of(number), number.setting if with_setting else "", fits[0], number.value))
        fixed = HEADLINE | FIXED[PAPER[name], table]
        assert all(getattr(number, key) == value for key, value in fixed.items() if key not in columns[fits[0]]), number
        if not with_setting:
            together = (
                number.row in ENSEMBLES.get((PAPER[name], table), ()) or (number.row, number.value) == RIDE_AS_SOTA
            )
            assert number.setting == ("ensemble" if together else "single"), number
    assert sorted(printed) == sorted(ours)


def _has(number: Number, key: str, value: Any) -> bool:
    found = getattr(number, key)
    return found in value if key == "augmentation" else found == value


def test_the_settings_of_dives_ablation() -> None:
    """Table 6 has no labels but switches: BSCE, temperature and power normalization stand in the notes."""
    notes = {n.row: n.note for n in numbers_of("dive", "6")}
    rows = re.findall(r"(?m)^# (\d) \| (.) \| (\d) \| (.) \|", region("dive", "6"))
    assert len(rows) == 6
    for number, bsce, temperature, power in rows:
        note = notes[f"#{number}"]
        assert (" with BSCE" in note, " without BSCE" in note) == (bsce == "✓", bsce == "✗")
        assert f"temperature {temperature}" in note
        assert ("no power normalization" not in note) == (power == "✓")


def test_what_the_texts_contradict() -> None:
    """The sentences that notes speak of are there."""
    for name in ("preprint", "journal"):
        text = text_of(name)
        assert "accuracies of 86.1% (IF of 50)" in text and "87.2% (IF of 50)" in text
        assert "we set two experts equally for both NCL and NCL++" in text
        assert "improved by about 3% to 5% when employing RandAugment" in text
    assert "We use ResNeXt-50 [32] as the backbone in all experiments" in text_of("dive")
    experts = re.findall(r"expert\d Result: Prec@1 ([\d.]+)", text_of("slides"))
    assert [float(x) for x in experts] == [82.73, 81.82, 82.66]
