"""What is said under ``docs/results``: reports are written again from their exports, numbers in sentences are looked up."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from analysis import report
from ltsearch import cli
from ltsearch.store.provenance import ROOT
from tools import results

REPORTS = sorted(path.parent for path in results.RESULTS.rglob("report.md"))
WRITTEN = {".md", ".csv", ".tex"}  # and pictures, whose bytes depend on the fonts that are installed


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_a_report_is_what_its_export_makes_of_it(folder: Path, tmp_path: Path) -> None:
    assert (folder / "export.zip").is_file(), "a report without its runs cannot be written again"
    assert report.main(["--from", str(folder / "export.zip"), "--out", str(tmp_path)]) == 0
    made = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    kept = {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
    assert kept - made == {Path("export.zip")}, "of a report that is no longer written so"
    for name in sorted(made):
        if name.suffix in WRITTEN:
            assert (folder / name).read_text() == (tmp_path / name).read_text(), name


@pytest.mark.slow
def test_replayed_searches_are_what_the_recording_makes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of every cheap kind, from the export: a clone has all that the table was made from."""
    study, recorded = ROOT / "search_spaces" / "early_stopping.yaml", results.RESULTS / "early_stopping"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["restore", str(recorded / "export.zip"), "--storage", "store"]) == 0
    words = ["--storage", "store", "--searches", "1", "--trials", "72", "--early-stopping", "asha,median", "--out", "."]
    assert cli.main(["replay", str(study), *words]) == 0
    made = list(csv.reader((tmp_path / "replay.csv").open()))
    kept = list(csv.reader((results.RESULTS / "early_stopping_replayed" / "replay.csv").open()))
    assert len(made) == 5 and all(line in kept for line in made)


@pytest.mark.parametrize("page", results.pages(), ids=lambda page: page.parent.name)
def test_every_number_of_a_sentence_stands_in_a_table(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert results.fill(page) == text, "`python -m tools.results` writes the numbers of the tables"
    assert results.unlinked(text) == []


def test_a_number_that_no_table_has_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('row,x\n"BSCE / BSCE (ensemble)",4.06\nCE,1.5\n')
    page = tmp_path / "README.md"
    page.write_text(
        'BSCE has [4.0](a.csv "BSCE · x"), [+1](a.csv "BSCE − CE · x") more, [0.0](a.csv "CE − BSCE · x") less.'
    )
    assert results.fill(page) == (
        'BSCE has [4.1](a.csv "BSCE · x"), [+3](a.csv "BSCE − CE · x") more, [−2.6](a.csv "CE − BSCE · x") less.'
    )
    assert results.unlinked('[4.1](a.csv "BSCE · x"), 2.5 more, 3 points, `0.5`') == ["2.5", "3 points"]
    page.write_text('[4.0](a.csv "LDAM · x")')
    with pytest.raises(ValueError, match="not one row 'LDAM'"):
        results.fill(page)


def test_claims_of_all_studies_below_a_page(tmp_path: Path) -> None:
    found = {
        "a": "x is better,,2,a paper,1.254,-0.5,3,5,0.2,open\n",
        "b/c": "y is better,,,,-1,,,1,,open\nz,,,,,,,,,open\n",
    }
    for study, lines in found.items():
        folder = tmp_path / study
        folder.mkdir(parents=True)
        (folder / "verdict.csv").write_text(f"row,setting,paper,source,difference,low,high,seeds,p,verdict\n{lines}")
        (folder / "costs.csv").write_text("row,n,seconds\nx,5,1800\ny,1,1800\n")
    page = tmp_path / "README.md"
    page.write_text("<!-- begin claims -->\nof before\n<!-- end claims -->\n")
    text = results.fill(page)
    assert text.splitlines()[3:-1] == [
        "| x is better | +2.00 | +1.25 [−0.50, +3.00] | open | 5 | 3.0 | [a](a/report.md) |",
        "| y is better | – | −1.00 | open | 1 | 3.0 | [b/c](b/c/report.md) |",
        "| z | – | – | open | – | 3.0 | [b/c](b/c/report.md) |",
    ]
    assert results.unlinked(text) == []
