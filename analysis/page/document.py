"""A report as a record: headings, texts, tables and figures in order; and its Markdown with the files beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis.figures import style
from analysis.tables.record import Table, to_csv, to_latex, to_markdown
from trainables.files import write_text

REPORT, PAGE, FIGURE_FOLDER = "report.md", "report.html", "figures"


@dataclass(frozen=True)
class Text:
    """Paragraphs, headings, lists and small tables, as Markdown."""

    markdown: str


@dataclass(frozen=True)
class Shown:
    """A table with its files."""

    table: Table


@dataclass(frozen=True)
class Drawn:
    """A figure with its files. ``chart``: the same data as Vega-Lite, where a kind has that."""

    name: str
    caption: str
    alt: str
    files: dict[str, str]  # what a link says: file
    chart: dict[str, Any] | None


@dataclass(frozen=True)
class Fold:
    """A part that opens when it is clicked; its text is Markdown."""

    summary: str
    markdown: str


Part = Text | Shown | Drawn | Fold


@dataclass
class Document:
    """What is being written into ``folder``: the parts of the report, and the files beside it."""

    folder: Path
    study: str
    parts: list[Part] = field(default_factory=list)
    explained: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def say(self, *parts: str) -> None:
        """Paragraphs, tables, headings."""
        self.parts += [Text(part) for part in parts if part]

    def explain(self, what: str, how: str) -> None:
        """How to read a part; stands with the others' below."""
        self.explained[what] = how

    def fold(self, summary: str, text: str) -> None:
        """A part that opens when it is clicked."""
        self.parts.append(Fold(summary, text))

    def table(self, table: Table, data: Table | None = None) -> None:
        """A table with its files; ``data`` has more rows than are printed."""
        self.files[f"{table.name}.csv"] = to_csv(data or table)
        self.files[f"{table.name}.tex"] = to_latex(table, self.study)
        self.parts.append(Shown(table))

    def figure(
        self, figure: Figure, name: str, caption: str, alt: str, data: str = "", chart: dict[str, Any] | None = None
    ) -> None:
        """A figure with its files, its alt text and its caption."""
        style.save(figure, self.folder / FIGURE_FOLDER / name)
        files = {"SVG": f"{FIGURE_FOLDER}/{name}.svg"} | ({"data": f"{FIGURE_FOLDER}/{name}.csv"} if data else {})
        if data:
            self.files[files["data"]] = data
        self.parts.append(Drawn(name, caption, " ".join(alt.split()), files, chart))

    def write(self) -> Path:
        """Write all files but the pages, then ``report.md``: what it links to is there before it is."""
        for name, text in self.files.items():
            write_text(self.folder / name, text)
        write_text(self.folder / REPORT, "\n\n".join(filter(None, map(_markdown, self.parts))) + "\n")
        return self.folder / REPORT


def _markdown(part: Part) -> str:
    match part:
        case Text(text):
            return text
        case Shown(table):
            return f"{to_markdown(table)}\n\nData: [CSV]({table.name}.csv), [LaTeX]({table.name}.tex)."
        case Drawn(name, caption, alt, files):
            links = ", ".join(f"[{said}]({file})" for said, file in files.items())
            text = alt.replace("[", "(").replace("]", ")")
            return f"![{text}]({FIGURE_FOLDER}/{name}.png)\n\n*{caption}.* {links}."
        case Fold(summary, text):
            return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
