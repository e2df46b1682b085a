"""Every kind of table through a real LaTeX engine, in a two-column paper: no error, nothing sticks out, all of it is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import report
from analysis.published import numbers as published_numbers
from analysis.read.mlflow_store import TrackingStore
from analysis.statistics.seeds import Summary
from analysis.tables.record import PACKAGES
from ltsearch.store.records import PublishedTable
from tests.analysis import made_up
from tests.analysis.conftest import SWEEP, Store
from tests.analysis.figures_data import SWEEP as FIGURES_SWEEP
from tests.analysis.figures_data import Row, fill

pytestmark = pytest.mark.skipif(
    not (shutil.which("pdflatex") and shutil.which("pdftotext")),
    reason="pdflatex and pdftotext are not installed (Debian: texlive-latex-extra, poppler-utils)",
)

DOCUMENT = r"""\documentclass[10pt,twocolumn]{article}
%s
\begin{document}
%s
\end{document}
"""


def compiled(files: list[Path], folder: Path) -> tuple[str, list[str]]:
    """LaTeX's log, and the text of every page: one table each."""
    body = "\n".join(rf"\input{{{file}}}\clearpage" for file in files)
    (folder / "paper.tex").write_text(DOCUMENT % (PACKAGES.removeprefix("% needs "), body))
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):  # labels
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
        assert done.returncode == 0, done.stdout[-3000:]
    told = subprocess.run(
        ["pdftotext", "-layout", "paper.pdf", "-"], cwd=folder, capture_output=True, text=True, check=True
    )
    log = (folder / "paper.log").read_text(errors="replace").replace("\n", "")
    return log, told.stdout.split("\f")[:-1]


def check(files: list[Path], folder: Path) -> list[str]:
    log, pages = compiled(files, folder)
    assert re.findall(r"Overfull \\hbox[^)]*\)", log) == []
    assert "multiply defined" not in log and "undefined" not in log and "Missing character" not in log
    assert len(pages) == len(files)
    return pages


def test_tables_of_a_report(store: Store, tmp_path: Path) -> None:
    report.write_report(SWEEP, TrackingStore(store.uri), tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.tex"))
    assert {f.stem for f in files} >= {"ablation", "classes", "costs", "search_best", "search_confirmed"}
    pages = dict(zip((f.stem for f in files), check(files, tmp_path), strict=True))
    assert "NCL++ (ensemble)" in pages["ablation"] and "54.03 ± 1.00" in pages["ablation"]
    assert "Which part of NCL++ matters?" not in "".join(pages.values())  # captions are the tables' own


def test_every_published_table(tmp_path: Path) -> None:
    tables = list(dict.fromkeys((n.paper, n.table) for n in published_numbers.load()))
    asked = [PublishedTable(paper=paper, table=name) for paper, name in tables]
    fill(tmp_path, [Row("BSCE")], [5, 5], seeds=(0,), published=asked)
    report.write_report(FIGURES_SWEEP, TrackingStore(f"sqlite:///{tmp_path / 'mlflow.db'}"), tmp_path / "out")
    files = [tmp_path / "out" / f"published_{paper}_{name}.tex" for paper, name in tables]
    pages = dict(zip(tables, check(files, tmp_path), strict=True))
    for key, page in pages.items():
        missing = [
            n for n in published_numbers.table(*key) if f"{n.value:.1f}" not in page and f"{n.value:.2f}" not in page
        ]
        missing = [n for n in missing if n.metric != "difference"]  # in parentheses, with a sign
        assert missing == [], key


def test_every_table_of_the_papers_with_rows_of_ours(tmp_path: Path) -> None:
    """The studies at the papers' recipes; our numbers are made up, which is not to be read off anywhere else."""
    made = {(paper, number): table for paper, number, table in made_up.tables()}
    ncl_pp, dive = (
        [("ncl_pp", str(n)) for n in range(1, 11)],
        [("dive", n) for n in ("1", "2", "3", "4", "5", "6", "8")],
    )
    assert set(made) == {*ncl_pp, *dive, ("slides", "4")}  # the slides print no recipe: nothing of ours can stand there
    for key in (*ncl_pp, *dive):
        ours = [row for row in made[key].rows if row[1] == "ours"]
        assert ours, key
        assert [row[0] for row in made[key].rows[-len(ours) :]] == [row[0] for row in ours]  # below the printed ones
    parts = [column.heading for column in made["ncl_pp", "7"].columns if column.key.startswith("part_")]
    checks = {
        str(row[0]): dict(zip(parts, row[2:], strict=False)) for row in made["ncl_pp", "7"].rows if row[1] == "ours"
    }
    assert checks["BIL + NFL (n=3)"] == {
        "BIL": True,
        "InterCL": False,
        "IntraCL": False,
        "NFL_hard": True,
        "Ensemble": False,
    }
    shifted = next(row for row in made["dive", "8"].rows if row[0] == "BSCE (n=5)")
    assert all(isinstance(cell, Summary) for cell in shifted[2:])
    costs = next(row for row in made["ncl_pp", "5"].rows if row[0] == "NCL++ (n=3)")
    assert costs[-3:-1] == (pytest.approx(8.2, abs=0.1), pytest.approx(4.1, abs=0.1))  # counted, without a spread
    document = made_up.write(tmp_path)
    assert made_up.WARNING in (tmp_path / "report.md").read_text() and len(document.files) == 2 * len(made)
    pages = check(sorted(tmp_path.glob("*.tex")), tmp_path)
    assert sum("(n=" in page for page in pages) == len(made) - 1
