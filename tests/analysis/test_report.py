"""The whole report and its command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import report
from analysis.markdown import csv_text, escape, table
from tests.analysis.conftest import SWEEP, Store


@pytest.fixture(scope="module")
def folder(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "nested"
    assert report.write_report(SWEEP, store.uri, folder) == folder / "report.md"
    return folder


def test_sections(folder: Path, store: Store) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert headings == [
        "# study (profile `small`)",
        "## What ran",
        "## Ablation",
        "## Calibration and cost",
        "## Search",
        "## Provenance",
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
    report.write_report(SWEEP, store.uri, tmp_path)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert [file for file in files if (folder / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def test_command(store: Store, tmp_path: Path) -> None:
    spec = tmp_path / "study.yaml"
    spec.write_text(f"name: study\ntracking: {{uri: '{store.uri}'}}\nreport: {{folder: out, notes: From the spec.}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "analysis.report", str(spec), "--profile", "small"],
        cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(Path(report.__file__).parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, f"out/{SWEEP}/report.md", "")
    assert "Notes stand *here*." in (tmp_path / "out" / SWEEP / "report.md").read_text(encoding="utf-8")


def test_a_profile_may_move_the_report() -> None:
    tree = {"report": {"folder": "a"}, "tracking": {"uri": "u"}, "profiles": {"p": {"report.folder": "b"}, "q": None}}
    assert report._options(tree, "p")("report", "folder") == "b"
    assert report._options(tree, "q")("report", "folder") == "a"
    assert report._options(tree, "p")("tracking", "uri") == "u"
    assert report._options(tree, None)("report", "notes") is None


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
