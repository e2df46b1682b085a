"""A table as a record, and the three texts that are made of it: Markdown, LaTeX (booktabs) and CSV.

What stands in a cell keeps its type (``Summary``, ``Difference``, a number, a text), so that every text shows it in its own way
and the CSV has it unrounded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from analysis import markdown
from analysis.statistics.seeds import Difference, Summary

HOW_TO_READ_DIFFERENCES = (
    "Differences are percentage points with 95 % intervals that hold for all of a table at once, and p corrected for it, by "
    "the test that its notes name; *: p < 0.05; n.s.: not significant; not tested: fewer than 3 seeds, or no spread."
)
HOW_TO_READ_MARKS = "Bold: the best of a column; underlined: the second."


@dataclass(frozen=True)
class Gain:
    """A value with what it gains, printed as ``42.2 (+1.3)``."""

    value: float
    gain: float


Content = Summary | Difference | Gain | float | int | str | None  # of a bool: a mark, or nothing


@dataclass(frozen=True)
class Column:
    """One column. ``best`` marks the best value bold and the second underlined; ``format`` is of numbers.

    ``over``: the spanners above the heading, outermost first; neighbours with the same one share it.
    """

    key: str  # in the CSV
    heading: str
    best: Literal["max", "min"] | None = None
    format: str = ".2f"
    shown: bool = True  # False: in the CSV only
    over: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column names the row. ``name`` is the stem of its files.

    ``groups``: headings of groups of rows, empty for a rule alone, by the number of the row that they stand above.
    ``asides``: notes for who reads the report, which are not pasted into a paper with the table.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Content, ...], ...]
    notes: tuple[str, ...] = ()
    groups: Mapping[int, str] = field(default_factory=dict)
    asides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Every row has a cell for every column."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name!r}: a row of {len(row)} cells under {len(self.columns)} columns")

    def _repr_markdown_(self) -> str:
        """In a notebook."""
        return to_markdown(self)


Mark = Literal["best", "second", ""]


def marks(table: Table) -> list[list[Mark]]:
    """Which cells are best and second in their column, as printed: values that round to the same share a mark."""
    found: list[list[Mark]] = [["" for _ in table.columns] for _ in table.rows]
    for j, column in enumerate(table.columns):
        if column.best is None:
            continue
        values = [_rounded(row[j], column) for row in table.rows]
        ranked = sorted({v for v in values if v is not None}, reverse=column.best == "max")
        if len(ranked) < 2:
            continue
        for i, value in enumerate(values):
            if value is not None and value in ranked[:2]:
                found[i][j] = "best" if value == ranked[0] else "second"
    return found


def _rounded(content: Content, column: Column) -> float | None:
    if isinstance(content, Summary):
        return float(format(content.mean, column.format))
    if isinstance(content, Gain):
        content = content.value
    if isinstance(content, int | float) and not isinstance(content, bool):
        return float(format(content, column.format))
    return None


def spans(table: Table) -> list[list[tuple[str, int]]]:
    """Spanners by level, outermost first: text and how many shown columns it stands above."""
    shown = [column for column in table.columns if column.shown]
    levels = max((len(column.over) for column in shown), default=0)
    found: list[list[tuple[str, int]]] = []
    for level in range(levels):
        line: list[tuple[str, int]] = []
        before: tuple[str, ...] = ()
        for column in shown:
            path = column.over[: level + 1]
            text = path[level] if len(path) > level else ""
            if line and path == before and text:
                line[-1] = (text, line[-1][1] + 1)
            else:
                line.append((text, 1))
            before = path
        found.append(line)
    return found


# -- Markdown ----------------------------------------------------------------------------------------------------------


def to_markdown(table: Table) -> str:
    """A pipe table, with its notes as a list below."""
    shown = [j for j, column in enumerate(table.columns) if column.shown]
    wrap = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    rows = []
    for row, marked in zip(table.rows, marks(table), strict=True):
        cells = [markdown.escape(text(row[j], table.columns[j])) for j in shown]
        rows.append([wrap[marked[j]].format(cell) for j, cell in zip(shown, cells, strict=True)])
    for at, heading in sorted(table.groups.items(), reverse=True):
        if heading:
            rows.insert(at, [f"*{markdown.escape(heading)}*", *([""] * (len(shown) - 1))])
    header = [markdown.escape(", ".join((*table.columns[j].over, table.columns[j].heading))) for j in shown]
    lines = markdown.table(header, rows, escaped=True)
    notes = [*table.notes, *table.asides]
    return "\n".join([*lines, "", *markdown.listed(notes)] if notes else lines)


def text(content: Content, column: Column) -> str:
    """A cell as a reader sees it."""
    if content is None:
        return markdown.ABSENT
    if isinstance(content, Summary):
        return markdown.mean_std(content, column.format)
    if isinstance(content, Difference):
        return markdown.difference(content)
    if isinstance(content, Gain):
        return f"{content.value:{column.format}} ({content.gain:+{column.format}})".replace("(-", "(−")
    if isinstance(content, bool):
        return "✓" if content else ""
    return content if isinstance(content, str) else format(content, column.format)


# -- LaTeX -------------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "–": "--",
    "β": r"$\beta$", "λ": r"$\lambda$", "τ": r"$\tau$", "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$",
    "“": "``", "”": "''", "…": r"\dots{}", "⁹": "$^9$", "<": "$<$", ">": "$>$",
    "†": r"$\dagger$", "∗": r"$\ast$", "≪": r"$\ll$", "≈": r"$\approx$", "|": r"\textbar{}",
    "✓": r"$\checkmark$", "α": r"$\alpha$", "γ": r"$\gamma$", "σ": r"$\sigma$",
}  # fmt: skip


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
    return re.sub("(.)\N{COMBINING TILDE}", r"$\\tilde{\1}$", escaped)


WIDE = 6  # shown columns; a table of more stands over both columns of a page
PACKAGES = r"% needs \usepackage{booktabs,threeparttable,adjustbox,amssymb}"


def to_latex(table: Table, study: str = "") -> str:
    """A ``table`` environment, to be pasted into a paper as it is; ``study`` goes into its label.

    Rules of ``booktabs``, notes of ``threeparttable``; a table of more than ``WIDE`` columns is a ``table*``, and one that is
    wider than its place is scaled to it (``adjustbox``). A table with differences says below how they are read: what explains
    them in the report is not pasted with it.
    """
    shown = [j for j, column in enumerate(table.columns) if column.shown]
    wrap = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
    float_ = "table*" if len(shown) > WIDE else "table"
    texts = [j for j in shown if all(isinstance(row[j], str | None) for row in table.rows)]
    alignment = "".join("l" if j in texts or j == shown[0] else "c" if _marked(table, j) else "r" for j in shown)
    lines = [
        PACKAGES,
        rf"\begin{{{float_}}}[t]",
        r"\centering",
        r"\begin{threeparttable}\renewcommand{\TPTminimum}{\linewidth}",
        rf"\caption{{{latex_escape(table.caption)}}}",
        rf"\label{{tab:{'-'.join(filter(None, [study, table.name])).replace('_', '-')}}}",
        r"\begin{tabular}{@{}c@{}}\begin{adjustbox}{max width=\linewidth}",  # notes are as wide as the outer one
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        *_spanners(table),
        " & ".join(latex_escape(table.columns[j].heading) for j in shown) + r" \\",
        r"\midrule",
    ]
    for i, (row, marked) in enumerate(zip(table.rows, marks(table), strict=True)):
        if i in table.groups:
            lines += [r"\midrule"] if i else []
            if table.groups[i]:
                lines.append(rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{latex_escape(table.groups[i])}}}}} \\")
        cells = (wrap[marked[j]].format(latex_escape(text(row[j], table.columns[j]))) for j in shown)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{adjustbox}\end{tabular}"]
    notes = [*table.notes]
    if any(isinstance(row[j], Difference) for row in table.rows for j in shown):
        notes.append(HOW_TO_READ_DIFFERENCES)
        notes += [HOW_TO_READ_MARKS] if any(any(marked) for marked in marks(table)) else []
    if notes:
        items = (rf"\item {latex_escape(note)}" for note in notes)
        lines += [r"\begin{tablenotes}[flushleft]\footnotesize", *items, r"\end{tablenotes}"]
    return "\n".join([*lines, r"\end{threeparttable}", rf"\end{{{float_}}}", ""])


def _marked(table: Table, j: int) -> bool:
    return any(isinstance(row[j], bool) for row in table.rows)


def _spanners(table: Table) -> list[str]:
    """A line for every level, with rules below what is spanned."""
    lines = []
    for level in spans(table):
        cells, rules, at = [], [], 1
        for text, width in level:
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{latex_escape(text)}}}" if text else " & ".join([""] * width))
            rules += [rf"\cmidrule(lr){{{at}-{at + width - 1}}}"] if text else []
            at += width
        lines += [" & ".join(cells) + r" \\", " ".join(rules)]
    return lines


# -- CSV ---------------------------------------------------------------------------------------------------------------

_DIFFERENCE = ("", "_low", "_high", "_p", "_significant")
_SUMMARY = ("", "_std", "_n")
_GAIN = ("", "_gain")


def to_csv(table: Table) -> str:
    """Every number of the table, unrounded: a ``Summary`` as mean, std and n, a ``Difference`` with interval and p."""
    kinds = [_kind([row[j] for row in table.rows]) for j in range(len(table.columns))]
    header = [f"{c.key}{end}" for c, kind in zip(table.columns, kinds, strict=True) for end in kind]
    rows = [[part for c, kind in zip(row, kinds, strict=True) for part in _parts(c, kind)] for row in table.rows]
    return markdown.csv_text(header, rows)


def _kind(contents: Sequence[Content]) -> tuple[str, ...]:
    if any(isinstance(content, Difference) for content in contents):
        return _DIFFERENCE
    if any(isinstance(content, Gain) for content in contents):
        return _GAIN
    return _SUMMARY if any(isinstance(content, Summary) for content in contents) else ("",)


def _parts(content: Content, kind: tuple[str, ...]) -> list[object]:
    if isinstance(content, Summary):
        return [content.mean, content.std, content.n]
    if isinstance(content, Difference):
        low, high = content.interval or (None, None)
        return [content.mean, low, high, content.p, content.significant]
    if isinstance(content, Gain):
        return [content.value, content.gain]
    return [content, *([None] * (len(kind) - 1))]
