"""``report.html``: the report as one page that needs no network, from the same record as ``report.md``.

Tables sort, numbers show their seeds, charts answer the pointer, images are inside. A content security policy keeps the
browser from loading anything at all.
"""

from __future__ import annotations

import base64
import json
import os
import re
from contextlib import suppress
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis.page.document import FIGURE_FOLDER, PAGE, Document, Drawn, Fold, Shown, Text
from analysis.statistics.seeds import Difference, Summary
from analysis.tables import record
from analysis.tables.record import Column, Content, Gain, Table
from trainables.files import write_text

_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_DETAILS = re.compile(r"<p>&lt;details&gt;&lt;summary&gt;(.*?)&lt;/summary&gt;</p>")


def write(document: Document, title: str) -> None:
    """Write ``report.html`` beside ``report.md``; the figures' images are read from the folder."""
    parts = [_part(document, part) for part in document.parts]
    charts = {
        f"chart-{part.name}": part.chart | {"description": part.alt}
        for part in document.parts
        if isinstance(part, Drawn) and part.chart
    }
    page = _template().render(
        title=title,
        css=Markup(_file("page.css")),
        script=Markup(_file("page.js")),
        vega=Markup(_vega().replace("</script", "<\\/script")) if charts else "",
        charts=Markup(json.dumps(charts, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c")),
        parts=parts,
    )
    write_text(document.folder / PAGE, page + "\n")


def _part(document: Document, part: Any) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"kind": "text", "html": markdown(text)}
        case Fold(summary, text):
            return {"kind": "fold", "summary": summary, "html": markdown(text)}
        case Shown(table):
            return {"kind": "table", **_table(table)}
        case Drawn(name, caption, alt, files, chart):
            image = "" if chart else _image(document, name)
            return {"kind": "figure", "name": name, "caption": caption, "alt": alt, "files": files, "image": image}
    raise TypeError(type(part).__name__)


def markdown(text: str) -> Markup:
    """Markdown as HTML. HTML in it is text, but for parts that open."""
    made = _MARKDOWN.render(text)
    made = _DETAILS.sub(r"<details><summary>\1</summary>", made).replace("<p>&lt;/details&gt;</p>", "</details>")
    return Markup(made.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>"))


def _image(document: Document, name: str) -> str:
    content = (document.folder / FIGURE_FOLDER / f"{name}.png").read_bytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


# -- tables ------------------------------------------------------------------------------------------------------------


def _table(table: Table) -> dict[str, Any]:
    """Spanners, headings and groups of rows; a cell is text, mark, what it sorts by and what it shows when pointed at."""
    shown = [j for j, column in enumerate(table.columns) if column.shown]
    marks = record.marks(table)
    rows = [[_cell(row[j], table.columns[j], marks[i][j]) for j in shown] for i, row in enumerate(table.rows)]
    starts = sorted({0, *table.groups})
    bodies = [
        {"heading": table.groups.get(start, ""), "rows": rows[start:end]}
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
    ]
    headings = [
        {"text": table.columns[j].heading, "numeric": any(row[at]["sort"] is not None for row in rows)}
        for at, j in enumerate(shown)
    ]
    return {
        "name": table.name,
        "caption": table.caption,
        "spanners": record.spans(table),
        "headings": headings,
        "bodies": bodies,
        "notes": [*table.notes, *table.asides],
        "width": len(shown),
    }


def _cell(content: Content, column: Column, mark: str) -> dict[str, Any]:
    sort: float | None = None
    tip = ""
    match content:
        case Summary():
            sort = content.mean
            tip = ", ".join(f"seed {seed}: {value:{column.format}}" for seed, value in sorted(content.seeds.items()))
        case Difference():
            sort = content.mean
        case Gain():
            sort = content.value
        case bool():
            sort = float(content)
        case int() | float():
            sort = float(content)
    return {"text": record.text(content, column), "mark": mark, "sort": sort, "tip": tip}


# -- the page ----------------------------------------------------------------------------------------------------------


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_file("page.html.j2"))


@cache
def _file(name: str) -> str:
    return (resources.files("analysis.page") / name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script; putting it together takes seconds, so it is kept in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(cache) / "ltsearch" / f"vega-{version('vl-convert-python')}.js"
    try:
        return kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        from vl_convert import javascript_bundle

        made = javascript_bundle("window.vegaEmbed = vegaEmbed")
    with suppress(OSError):  # a home that cannot be written to
        write_text(kept, made)
    return made
