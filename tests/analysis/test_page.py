"""``report.html``: what it holds, and what a reader does with it in a real browser."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from analysis import report
from analysis.page import charts, html
from analysis.page.document import Document
from analysis.read.mlflow_store import TrackingStore
from analysis.statistics.seeds import Summary
from analysis.tables.record import Column, Gain, Table
from ltsearch.store.records import FigureKind, FigureRequest
from tests.analysis.conftest import SWEEP, Store
from tests.analysis.figures_data import SWEEP as FIGURES_SWEEP
from tests.analysis.figures_data import Row, fill

CHROMIUM = shutil.which("chromium")
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: chromium)")
LARGEST = 3_000_000  # bytes


@pytest.fixture(scope="module")
def searched(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study with a search."""
    folder = tmp_path_factory.mktemp("searched")
    report.write_report(SWEEP, TrackingStore(store.uri), folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study with all kinds of charts, and an image."""
    folder = tmp_path_factory.mktemp("page")
    rows = [Row("CE", method={"name": "ce"}), Row("BSCE", strength=2.4), Row("NCL++", experts=2, strength=3.0)]
    kinds: list[FigureKind] = ["forest", "learning_curves", "accuracy_cost", "class_accuracy"]
    fill(folder, rows, [40, 20, 6], figures=[FigureRequest(kind=kind) for kind in kinds])
    report.write_report(FIGURES_SWEEP, TrackingStore(f"sqlite:///{folder / 'mlflow.db'}"), folder / "out")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study that claims nothing."""
    folder = tmp_path_factory.mktemp("one_seed")
    fill(folder, [Row("CE", method={"name": "ce"}), Row("BSCE")], [40, 20, 6], seeds=(0,))
    report.write_report(FIGURES_SWEEP, TrackingStore(f"sqlite:///{folder / 'mlflow.db'}"), folder / "out")
    return folder / "out" / "report.html"


def table(rows: int = 3) -> Table:
    made = [("a", 0.5, "x"), ("b", Summary(2.0, 0.1, 2, seeds={0: 1.9, 1: 2.1}), "y"), ("c", None, "z")]
    made += [(f"row {i}", float(i * 37 % rows), str(i)) for i in range(3, rows)]
    return Table("t", "Caption", (Column("r", "row"), Column("v", "value", "max"), Column("s", "said")), tuple(made))


def written(folder: Path, *tables: Table, text: str = "") -> Path:
    document = Document(folder, "study")
    document.say(text)
    for one in tables:
        document.table(one)
    html.write(document, "A <title>")
    return folder / "report.html"


def without_scripts(text: str) -> str:
    return re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", text, flags=re.S)


# -- what it holds -----------------------------------------------------------------------------------------------------


def test_it_needs_no_network_and_is_small(page: Path) -> None:
    text = page.read_text()
    assert len(text.encode()) < LARGEST
    assert "default-src 'none'" in text
    assert re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(?!data:)[^\"]*\"", without_scripts(text)) == []


def test_it_says_what_the_markdown_says(searched: Path) -> None:
    """Headings in their order, and every number of every table."""
    said = (searched.parent / "report.md").read_text()
    headings = [re.sub(r"[#`]", "", line).strip() for line in re.findall(r"^##? .*$", said, re.M)]
    text = searched.read_text()
    found = [re.sub(r"<[^>]+>", "", heading) for heading in re.findall(r"<h[12]>(.*?)</h[12]>", without_scripts(text))]
    assert found == headings
    body = without_scripts(text)
    numbers = {
        n for line in said.splitlines() if line.startswith("|") for n in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", line)
    }
    assert len(numbers) > 40 and [n for n in numbers if n not in body] == []


def test_two_times_written_it_is_the_same(searched: Path, store: Store, tmp_path: Path) -> None:
    report.write_report(SWEEP, TrackingStore(store.uri), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == searched.read_bytes()


def test_what_a_user_writes_is_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"
    made = Table("t", bad, (Column("r", bad),), ((bad,),), (bad,), {0: bad})
    text = written(tmp_path, made, text=f"# {bad}\n\n{bad}").read_text()
    assert "<script>alert" not in text and "<img src=x" not in text
    assert "<title>A &lt;title&gt;</title>" in text


def test_parts_that_open_stay_parts_that_open() -> None:
    made = html.markdown("<details><summary>2 more</summary>\n\n| a |\n| --- |\n| 1 |\n\n</details>")
    assert made.startswith("<details><summary>2 more</summary>") and made.rstrip().endswith("</details>")
    assert "<table>" in made


def test_cells_carry_what_they_sort_by_and_their_seeds(tmp_path: Path) -> None:
    gains = Table("g", "g", (Column("r", "row"), Column("v", "value")), (("a", Gain(47.9, 3.9)),))
    text = written(tmp_path, table(), gains).read_text()
    assert 'data-sort="2.0"' in text and "seed 0: 1.90, seed 1: 2.10" in text
    assert 'data-sort="47.9"' in text and "47.90 (+3.90)" in text


def test_charts_are_vega_lite(page: Path, searched: Path) -> None:
    """Every chart compiles, by Vega-Lite itself."""
    found: dict[str, Any] = {}
    for file in (page, searched):
        inside = re.search(r'id="charts">(.*?)</script>', file.read_text(), re.S)
        assert inside is not None
        found |= json.loads(inside[1])
    kinds = {re.sub(r"chart-(\d_)?", "", name) for name in found}
    assert kinds == {"forest", "learning_curves", "accuracy_cost", "search_slices", "search_parallel"}
    for spec in found.values():
        assert vl_convert.vegalite_to_vega(spec)["marks"]


def test_kinds_without_a_chart_have_none() -> None:
    assert charts.of_figure("tsne", object()) is None


# -- what a reader does with it ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


def opened(browser: Any, file: Path, width: int = 1400, **options: Any) -> tuple[Any, list[str]]:
    """A page, and what went wrong while it loaded; whatever it asks of the network goes wrong."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request", lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None
    )
    tab.goto(file.as_uri())
    return tab, wrong


@browser_only
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize(
    ("study", "scheme"), [("page", "light"), ("page", "dark"), ("searched", "light"), ("one_seed", "light")]
)
def test_it_loads_and_fits(
    browser: Any, request: pytest.FixtureRequest, width: int, study: str, scheme: str, tmp_path: Path
) -> None:
    tab, wrong = opened(browser, request.getfixturevalue(study), width, color_scheme=scheme)
    drawings = tab.locator(".chart")
    for i in range(drawings.count()):
        drawings.nth(i).locator("svg").first.wait_for(timeout=20_000)
    assert wrong == []
    assert drawings.count() == 3
    assert tab.evaluate(
        "document.documentElement.scrollWidth <= window.innerWidth"
    )  # wide tables scroll in their place
    background, ink = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (background == "rgb(255, 255, 255)") == (scheme == "light") and background != ink
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    tab.context.close()


def column(tab: Any, number: int) -> list[str]:
    return tab.locator(f"#table-t tbody tr:not(.group) > :nth-child({number})").evaluate_all(
        "cells => cells.map(cell => cell.firstChild.textContent)"
    )


@browser_only
def test_a_table_sorts(browser: Any, tmp_path: Path) -> None:
    """Numbers fall first, what is absent stays last, the third time restores; by mouse and by keyboard."""
    tab, wrong = opened(browser, written(tmp_path, table(6)))
    before = column(tab, 1)
    heading = tab.locator("#table-t thead th").nth(1)
    heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(tab, 1) == ["row 5", "row 4", "row 3", "b", "a", "c"]
    heading.locator("button").press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column(tab, 1) == ["a", "b", "row 3", "row 4", "row 5", "c"]
    heading.locator("button").press("Space")
    assert heading.get_attribute("aria-sort") is None and column(tab, 1) == before
    tab.locator("#table-t thead th button").first.click()
    assert column(tab, 1) == sorted(before)
    assert wrong == []
    tab.context.close()


@browser_only
def test_rows_stay_within_their_group(browser: Any, tmp_path: Path) -> None:
    rows = (("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0))
    made = Table("t", "t", (Column("r", "row"), Column("v", "value")), rows, groups={0: "printed", 2: "ours"})
    tab, _ = opened(browser, written(tmp_path, made))
    tab.locator("#table-t thead th button").nth(1).click()
    assert column(tab, 1) == ["b", "a", "d", "c"]
    assert tab.locator("#table-t tr.group").all_inner_texts() == ["printed", "ours"]
    tab.context.close()


@browser_only
def test_a_number_shows_its_seeds(browser: Any, tmp_path: Path) -> None:
    """When it is pointed at, and when it is reached by keyboard; Escape closes."""
    tab, _ = opened(browser, written(tmp_path, table()))
    number = tab.locator("#table-t .tip")
    tip = number.locator("[role=tooltip]")
    assert not tip.is_visible()
    number.hover()
    assert tip.is_visible() and tip.inner_text() == "seed 0: 1.90, seed 1: 2.10"
    tab.mouse.move(0, 0)
    assert not tip.is_visible()
    number.focus()
    assert tip.is_visible()
    tab.keyboard.press("Escape")
    assert not tip.is_visible()
    tab.context.close()


@browser_only
def test_a_chart_answers_the_pointer(browser: Any, page: Path) -> None:
    tab, wrong = opened(browser, page)
    points = tab.locator("[id$=accuracy_cost] svg .mark-symbol path")
    points.first.wait_for(timeout=20_000)
    tab.locator("[id$=accuracy_cost] svg .layer_2_marks path").first.hover()
    tab.locator("#vg-tooltip-element.visible").wait_for(timeout=5_000)
    assert "accuracy" in tab.locator("#vg-tooltip-element").inner_text()
    assert wrong == []
    tab.context.close()


@browser_only
def test_printed_it_is_dark_on_white_and_complete(browser: Any, page: Path) -> None:
    tab, _ = opened(browser, page, color_scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not tab.locator(".files").first.is_visible()
    tab.context.close()


@browser_only
def test_every_image_and_chart_has_a_text(browser: Any, page: Path) -> None:
    tab, _ = opened(browser, page)
    texts = tab.locator("figure img, figure .chart").evaluate_all("all => all.map(one => one.alt || one.ariaLabel)")
    assert len(texts) >= 4 and all(len(text) > 20 for text in texts)
    assert tab.locator("html").get_attribute("lang") == "en"
    assert tab.locator("table.sortable thead th:not([scope])").count() == 0
    tab.context.close()
