"""Tables as records: what is marked, and the three texts."""

from __future__ import annotations

import csv
import io
import re

import pytest

from analysis import markdown
from analysis.statistics.seeds import Difference, Summary
from analysis.tables.record import Column, Gain, Table, latex_escape, marks, spans, to_csv, to_latex, to_markdown

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
        ("β_c", Summary(50.001, None, 1), 1.04, Difference(-1.5, (-2.0, -1.0), 3, 0.02), 2),
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
    assert "**50.00**" in lines[3] and "−1.50 [−2.00, −1.00], p = 0.02 *" in lines[3] and "hidden" not in lines[0]
    assert lines[5].count("–") == 3 and lines[-1] == "- a note with 95 % and ≥ 3 seeds"


def test_latex_is_well_formed() -> None:
    text = to_latex(TABLE)
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert begun == ["table", "threeparttable", "tabular", "adjustbox", "tabular", "tablenotes"]
    assert ended == ["tabular", "adjustbox", "tabular", "tablenotes", "threeparttable", "table"]
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == 4 and all(re.sub(r"\\&", "", line).count("&") == 3 and line.endswith(r"\\") for line in body)
    assert r"\textbf{50.00 $\pm$ 1.00}" in body[0] and r"\underline{2.0}" in body[0]
    assert r"$\beta$\_c" in body[1] and "$-$1.50" in body[1] and r"50 \% \& more" in text
    assert r"\label{tab:some-table}" in text and all(ord(c) < 128 for c in text)


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0123, "p = 0.012 *"), (0.314, "p = 0.31 n.s."), (0.00099, "p < 0.001 *"), (0.001, "p = 0.001 *"),
        (1.0, "p = 1 n.s."), (0.049999, "p = 0.049999 *"), (0.05, "p = 0.05 n.s."), (0.0504, "p = 0.05 n.s."),
    ],
)  # fmt: skip
def test_a_difference_prints_the_corrected_p(p: float, text: str) -> None:
    assert markdown.difference(Difference(5.81, (4.9, 6.72), 3, p)) == f"+5.81 [+4.90, +6.72], {text}"


def test_a_difference_that_was_not_tested_prints_no_p() -> None:
    assert markdown.difference(Difference(1.0, None, 2)) == "+1.00 (n=2, not tested)"


def test_a_pasted_table_explains_its_differences() -> None:
    """Interval, p and marks; a table without differences has nothing to explain."""
    below = to_latex(TABLE).partition(r"\end{tabular}")[2]
    for part in (
        r"95 \% intervals that hold for all",
        "corrected for it",
        r"*: p $<$ 0.05",
        "n.s.: not significant",
        "not tested:",
        "Bold:",
    ):
        assert part in below
    columns, rows = TABLE.columns[:3], tuple(row[:3] for row in TABLE.rows)
    assert "Holm" not in to_latex(Table("t", "", columns, rows))
    assert "Holm" not in to_markdown(TABLE)  # the report says it once, above


@pytest.mark.parametrize("character", list("\\&%$#_{}~^<>|†∗"))
def test_latex_escapes_what_it_reads_otherwise(character: str) -> None:
    assert latex_escape(character) != character and all(ord(c) < 128 for c in latex_escape(character))


def test_csv_has_every_number() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0]["acc"] == "50.004" and rows[0]["acc_std"] == "1" and rows[0]["acc_n"] == "3"
    assert rows[1]["gap"] == "-1.5" and rows[1]["gap_low"] == "-2" and rows[1]["gap_p"] == "0.02"
    assert rows[0]["gap"] == "reference" and rows[0]["gap_low"] == "" and rows[1]["gap_significant"] == "True"
    assert rows[3]["acc"] == "" and rows[3]["hidden"] == "4"


def test_a_row_has_a_cell_for_every_column() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", "", (Column("a", "a"), Column("b", "b")), ((1,),))


# -- spanners, groups, gains, marks --------------------------------------------------------------------------------------

LAID_OUT = Table(
    "laid_out",
    "Spanners",
    (
        Column("row", "Method"),
        Column("part", "NFL"),
        Column("a", "100", best="max", format=".1f", over=("CIFAR-100-LT", "IF")),
        Column("b", "50", best="max", format=".1f", over=("CIFAR-100-LT", "IF")),
        Column("c", "all", format=".1f", over=("ImageNet-LT",)),
    ),
    (
        ("CE", False, 38.3, 43.9, Gain(41.6, 0.0)),
        ("BSCE", False, 42.2, None, Gain(50.0, 8.4)),
        ("ours", True, 54.8, 58.2, Gain(40.0, -1.6)),
    ),
    groups={0: "", 1: "balanced", 2: ""},
)


def test_spanners_are_shared_by_neighbours() -> None:
    assert spans(LAID_OUT) == [
        [("", 1), ("", 1), ("CIFAR-100-LT", 2), ("ImageNet-LT", 1)],
        [("", 1), ("", 1), ("IF", 2), ("", 1)],
    ]
    assert spans(TABLE) == []


def test_the_same_spanner_apart_is_two() -> None:
    columns = [Column("row", "")] + [Column(k, k, over=("x",) if k != "b" else ("y",)) for k in "abc"]
    assert spans(Table("t", "", tuple(columns), ())) == [[("", 1), ("x", 1), ("y", 1), ("x", 1)]]
    inner = [Column("row", "")] + [Column(k, k, over=(k, "IF")) for k in "ab"]
    assert spans(Table("t", "", tuple(inner), ()))[1] == [("", 1), ("IF", 1), ("IF", 1)]  # of two sets


def test_laid_out_in_markdown() -> None:
    lines = to_markdown(LAID_OUT).splitlines()
    assert lines[0].split("|")[1:-1] == [
        " Method     ", " NFL ", " CIFAR-100-LT, IF, 100 ", " CIFAR-100-LT, IF, 50 ", " ImageNet-LT, all "
    ]  # fmt: skip
    assert lines[3].startswith("| *balanced* |") and "50.0 (+8.4)" in lines[4] and "40.0 (−1.6)" in lines[5]
    assert " ✓ " in lines[5] and "✓" not in lines[4] and "**54.8**" in lines[5]


def test_laid_out_in_latex() -> None:
    lines = to_latex(LAID_OUT).splitlines()
    at = lines.index(r"\toprule")
    assert lines[at + 1] == r" &  & \multicolumn{2}{c}{CIFAR-100-LT} & \multicolumn{1}{c}{ImageNet-LT} \\"
    assert lines[at + 2] == r"\cmidrule(lr){3-4} \cmidrule(lr){5-5}"
    assert lines[at + 3] == r" &  & \multicolumn{2}{c}{IF} &  \\" and lines[at + 4] == r"\cmidrule(lr){3-4}"
    assert lines[at + 5] == r"Method & NFL & 100 & 50 & all \\"
    assert r"\multicolumn{5}{l}{\textit{balanced}} \\" in lines
    assert lines.count(r"\midrule") == 3 and r"\begin{tabular}{lcrrr}" in lines
    assert any(r"$\checkmark$" in line and line.startswith("ours") for line in lines)
    assert r"\begin{table}[t]" in lines
    wide = Table("w", "", tuple(Column(str(i), str(i)) for i in range(9)), ())
    assert r"\begin{table*}[t]" in to_latex(wide)


def test_laid_out_as_data() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(LAID_OUT))))
    assert rows[1]["c"] == "50" and rows[1]["c_gain"] == "8.4" and rows[1]["b"] == ""
