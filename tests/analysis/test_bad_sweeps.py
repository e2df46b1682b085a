"""``report --all``: a sweep, or a study file, that something is wrong with keeps no other report from being written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import report
from analysis.read import study_files
from ltsearch.store.records import PlanRecord
from tests.analysis.conftest import SWEEP, Filler, Store, plan


@pytest.fixture(scope="module")
def index(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a store that others write to as well."""
    folder = tmp_path_factory.mktemp("shared") / "one" / "two"
    folder.mkdir(parents=True)
    shutil.copy(store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    filler = Filler(folder)
    others = filler.experiment("others")

    def named(name: str) -> PlanRecord:
        return plan().model_copy(update={"sweep": name})

    for name in ("../../outside", "/tmp/lt-outside", "a\\b", "x@../y"):
        parent = filler.sweep(others, name, named(name))
        filler.trial(others, parent, "ce-1", 1, sweep=name, accuracy=(0.5, 0.5))
    other = filler.sweep(others, "of-another-version", None)
    filler.client.log_text(other, '{"sweep": "of-another-version", "rows": 3}', "plan.json")
    filler.sweep(others, "no-plan", None)
    filler.client.log_text(filler.sweep(others, "no-json", None), "[", "plan.json")
    filler.sweep(others, "runs-that-are-none", named("runs-that-are-none"), runs="[1, 2]")
    studies = folder / "studies"
    studies.mkdir()
    for name, content in {
        "good": b"name: waiting\n",
        "latin": b"name: caf\xe9\n",
        "date": b"name: 2026-99-99\n",
        "deep": b"[" * 5000,
        "numbers": b"name: 3\nprofiles: [1]\n",
        "strange": b"name: strange\nprofiles: {1: 2}\nquestion: [a]\n",
    }.items():
        (studies / f"{name}.yaml").write_bytes(content)
    (studies / "folder.yaml").mkdir()
    before = {path for path in folder.parent.parent.rglob("*") if folder / "out" not in path.parents}
    words = ["--all", "--tracking-uri", filler.uri, "--out", str(folder / "out"), "--studies", str(studies)]
    assert report.main(words) == 0
    after = {path for path in folder.parent.parent.rglob("*") if folder / "out" not in path.parents}
    assert after - before == {folder / "out"}  # nothing is written outside
    return folder / "out" / "index.md"


def test_the_good_ones_are_written(index: Path) -> None:
    assert (index.parent / SWEEP / "report.md").is_file()
    text = index.read_text()
    assert f"[{SWEEP}]({SWEEP}/report.md)" in text and "waiting.yaml" not in text and "| waiting" in text
    assert sorted(path.name for path in index.parent.iterdir()) == ["index.md", SWEEP]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../../outside", "its name is none that a sweep has (letters, digits, _ . -): no folder is made of it"),
        ("/tmp/lt-outside", "its name is none that a sweep has"),
        ("x@../y", "its name is none that a sweep has"),
        ("of-another-version", "a record is not what this version reads: "),
        ("no-plan", "has no plan.json; run the sweep again"),
        ("no-json", "a record is not what this version reads: "),
        ("runs-that-are-none", "the tracking store does not answer: 'list' object has no attribute 'values'"),
    ],
)
def test_the_bad_ones_say_why(name: str, said: str, index: Path) -> None:
    (line,) = [line for line in index.read_text().splitlines() if line.startswith(f"| {name} ")]
    assert "| no report" in line and said in line


@pytest.mark.parametrize("name", ["latin", "date", "deep", "folder"])
def test_studies_that_cannot_be_read_say_why(name: str, index: Path) -> None:
    (line,) = [line for line in index.read_text().splitlines() if f"/{name}.yaml |" in line or f"/{name}.yaml " in line]
    assert "| cannot be read" in line


def test_studies_of_another_shape_are_listed_or_left_out(index: Path) -> None:
    found = study_files.find(index.parent.parent / "studies")
    assert {study.file.stem: study.name for study in found if not study.error} == {
        "good": "waiting",
        "strange": "strange",
    }


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("../../x", [], "name = '../../x': not the name of a study (letters, digits, _ . -)"),
        ("good", ["--profile", "../../x"], "--profile '../../x': not the name of a profile (letters, digits, _ . -)"),
        ("good", ["--profile", ""], "--profile '': not the name of a profile"),
    ],
)
def test_names_that_would_become_paths(
    name: str, words: list[str], said: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: {name}\n")
    assert report.main([str(file), *words, "--tracking-uri", store.uri]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == [file]
