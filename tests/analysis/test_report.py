"""The whole report and its command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import report
from analysis.markdown import csv_text, escape, table
from analysis.read import study_files
from analysis.read.mlflow_store import TrackingStore
from ltsearch.store.records import FigureRequest, PairedTest, PublishedTable
from tests.analysis.conftest import SWEEP, Store
from tests.analysis.figures_data import SWEEP as FIGURES_SWEEP
from tests.analysis.figures_data import Row, fill
from trainables.errors import UserError


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "nested"
    assert report.write_report(SWEEP, TrackingStore(store.uri), folder) == folder / "report.md"
    return folder


def test_sections(folder: Path, store: Store) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert headings == [
        "# study (profile `small`)",
        "## Verdict",
        "## Ablation",
        "## Classes and calibration",
        "## Cost",
        "## Search",
        "## Behind it",
    ]
    for expected in (
        "Which part of NCL++ matters?",
        "Notes stand *here*.",
        "16 of 18 trials finished",
        "| abc123",
        "555 training images, 3 classes: 500, 50, 5",
        "method.bsce 1",
        "python -m ltsearch.sweep study.yaml --profile small",
        store.runs["ncl++-2"],
        store.runs["confirm-2-1"],
    ):
        assert expected in text
    assert f"{store.uri}" not in text


def test_every_link_is_there(folder: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert "figures/search_history.png" in links and "ablation_seeds.csv" in links
    assert [link for link in links if not (folder / link).is_file()] == []


def test_the_same_store_gives_the_same_bytes(folder: Path, store: Store, tmp_path: Path) -> None:
    report.write_report(SWEEP, TrackingStore(store.uri), tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [file for file in files if (folder / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def test_command(store: Store, tmp_path: Path) -> None:
    spec = tmp_path / "study.yaml"
    spec.write_text("extends: shared/where.yaml\nname: study\nreport: {folder: out, notes: From the spec.}\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/where.yaml").write_text(f"tracking: {{uri: '{store.uri}'}}\nreport: {{folder: elsewhere}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", str(spec), "--profile", "small"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(Path(report.__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"out/{SWEEP}/report.md", "")
    assert "Notes stand *here*." in (tmp_path / "out" / SWEEP / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a study that asks for figures, paired tests and published tables."""
    folder = tmp_path_factory.mktemp("full")
    rows = [Row("BSCE", strength=1.0), Row("NCL++", experts=2, strength=3.0, method={"name": "ncl_pp", "beta": 0.3})]
    asked = {
        "figures": [
            FigureRequest(kind="bars", caption="Bars of both."),
            FigureRequest(kind="tsne", rows=["BSCE"]),
            FigureRequest(kind="loss_weights"),  # of which nothing was logged
        ],
        "paired_tests": [
            PairedTest(row="NCL++", reference="BSCE", seed=1),
            PairedTest(row="NCL++", reference="BSCE", seed=7),
        ],
        "published": [PublishedTable(paper="ncl_pp", table="7"), PublishedTable(paper="dive", table="8")],
    }
    fill(folder, rows, [50, 30, 10, 5], names=["a", "b", "c", "d"], seeds=(0, 1), **asked)
    return report.write_report(FIGURES_SWEEP, TrackingStore(f"sqlite:///{folder / 'mlflow.db'}"), folder / "out")


def test_what_a_plan_asks_for_is_in_the_report(full: Path) -> None:
    text = full.read_text(encoding="utf-8")
    headings = re.findall(r"^##+ .*$", text, re.MULTILINE)
    assert headings == [
        "## Ablation",
        "## Classes and calibration",
        "## Cost",
        "## Figures",
        "## Image by image",
        "### NCL++ against BSCE, seed 1, by class",
        "## Published",
        "### NCL++ (Tan et al., Pattern Recognition 147, 2024), Table 7",
        "### DiVE (He et al., ICCV 2021), Table 8",
        "## Behind it",
    ]
    assert "*Bars of both.*" in text and "*Loss weights over epochs*: nothing to draw" in text
    assert "“NCL++” against “BSCE”: no seed of which both have finished." in text
    assert "| BIL + InterCL + IntraCL" in text and "Ours not in this table: “BSCE”, “NCL++”: " in text
    assert "BSCE (5.29): printed 5.29 between 48.24 and 43.18: a digit seems to be lost." in text


def test_its_files_are_there_and_linked(full: Path) -> None:
    links = set(re.findall(r"\]\(([^)]+)\)", full.read_text(encoding="utf-8")))
    tables = ("ablation", "classes", "costs", "paired_1", "published_ncl_pp_7", "published_dive_8")
    expected = {f"{name}.{end}" for name in tables for end in ("csv", "tex")} | {"ablation_seeds.csv"}
    expected |= {f"figures/{name}.{end}" for name in ("1_bars", "2_tsne") for end in ("png", "svg", "csv")}
    assert links == expected
    there = {path.relative_to(full.parent).as_posix() for path in full.parent.rglob("*") if path.is_file()}
    assert there == expected | {"report.md", "report.html"}


def test_a_published_table_that_does_not_exist_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path, [Row("BSCE")], [5, 5], seeds=(0,), published=[PublishedTable(paper="ncl_pp", table="11")])
    with pytest.raises(UserError, match="no table '11' of paper 'ncl_pp'; .*known tables: dive 1, "):
        report.write_report(FIGURES_SWEEP, TrackingStore(f"sqlite:///{tmp_path / 'mlflow.db'}"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_profile_may_move_the_report() -> None:
    tree = {"report": {"folder": "a"}, "tracking": {"uri": "u"}, "profiles": {"p": {"report.folder": "b"}, "q": None}}
    assert study_files.options(tree, "p")("report", "folder") == "b"
    assert study_files.options(tree, "q")("report", "folder") == "a"
    assert study_files.options(tree, "p")("tracking", "uri") == "u"
    assert study_files.options(tree, None)("report", "notes") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("name: [", "not YAML"),
        ("- 1", "a mapping with a `name`"),
        ("name: nothing", "no sweep 'nothing'; sweeps there: earlier, failed, study@small"),
        ("name: failed", "none of its trials has finished"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(
    text: str | None, message: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "x.yaml"
    if text is not None:
        spec.write_text(text)
    assert report.main([str(spec), "--tracking-uri", store.uri, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and len(shown.err.strip().splitlines()) == 1 and shown.out == ""
    assert not (tmp_path / "out").exists()


def test_markdown_tables() -> None:
    assert table(["a", "b|c"], [["x\ny", "1"]]) == ["| a   | b\\|c |", "| --- | ---: |", "| x y |    1 |"]
    assert escape("<details>") == "&lt;details>"


def test_csv_rounds_what_is_beyond_measure() -> None:
    assert csv_text(["a"], [[0.1 + 0.2], [None], [50.0], ["x,y"]]) == 'a\n0.3\n""\n50\n"x,y"\n'
