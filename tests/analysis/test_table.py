"""Tables as records: what is marked, and the three texts."""

from __future__ import annotations

import csv
import io
import re

import pytest

from analysis.statistics import Difference, Summary
from analysis.table import Column, Table, latex_escape, marks, to_csv, to_latex, to_markdown

TABLE = Table(
    "some_table",
    "A caption with 50 % & more",
    (
        Column("row", ""),
        Column("acc", "Acc.", best="max"),
        Column("cost", "cost_$", best="min", format=".1f"),
        Column("gap", "difference"),
        Column("hidden", "hidden", shown=False),
    ),
    (
        ("a|b", Summary(50.004, 1.0, 3), 2.0, "reference", 1),
        ("β_c", Summary(50.001, None, 1), 1.04, Difference(-1.5, (-2.0, -1.0), 3, 0.01, 0.02), 2),
        ("d", Summary(40.0, 0.5, 2), 1.01, None, None),
        ("none", None, None, None, 4),
    ),
    ("a note with 95 % and ≥ 3 seeds",),
)


def test_marks_are_of_what_is_printed() -> None:
    found = marks(TABLE)
    assert [row[1] for row in found] == ["best", "best", "second", ""]  # 50.004 and 50.001 print the same
    assert [row[2] for row in found] == ["second", "best", "best", ""]  # the smallest cost
    assert all(row[j] == "" for row in found for j in (0, 3, 4))


def test_one_value_is_not_marked() -> None:
    table = Table("t", "", (Column("a", "a", best="max"),), ((1.0,), (1.001,)))
    assert marks(table) == [[""], [""]]


def test_markdown() -> None:
    lines = to_markdown(TABLE).splitlines()
    assert lines[2].startswith("| a\\|b |    **50.00 ± 1.00** | <u>2.0</u> |") and lines[2].endswith(" reference |")
    assert "**50.00**" in lines[3] and "−1.50 [−2.00, −1.00] *" in lines[3] and "hidden" not in lines[0]
    assert lines[5].count("–") == 3 and lines[-1] == "- a note with 95 % and ≥ 3 seeds"


def test_latex_is_well_formed() -> None:
    text = to_latex(TABLE)
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert begun == ["table", "tabular"] and ended == ["tabular", "table"]
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == 4 and all(re.sub(r"\\&", "", line).count("&") == 3 and line.endswith(r"\\") for line in body)
    assert r"\textbf{50.00 $\pm$ 1.00}" in body[0] and r"\underline{2.0}" in body[0]
    assert r"$\beta$\_c" in body[1] and "$-$1.50" in body[1] and r"50 \% \& more" in text
    assert r"\label{tab:some-table}" in text and all(ord(c) < 128 for c in text)


@pytest.mark.parametrize("character", list("\\&%$#_{}~^<>"))
def test_latex_escapes_what_it_reads_otherwise(character: str) -> None:
    assert latex_escape(character) != character and all(ord(c) < 128 for c in latex_escape(character))


def test_csv_has_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0]["acc"] == "50.004" and rows[0]["acc_std"] == "1" and rows[0]["acc_n"] == "3"
    assert rows[1]["gap"] == "-1.5" and rows[1]["gap_low"] == "-2" and rows[1]["gap_p_holm"] == "0.02"
    assert rows[0]["gap"] == "reference" and rows[0]["gap_low"] == "" and rows[1]["gap_significant"] == "True"
    assert rows[3]["acc"] == "" and rows[3]["hidden"] == "4"


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", "", (Column("a", "a"), Column("b", "b")), ((1,),))
