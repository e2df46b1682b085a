"""Reports from the records of a store, from a tracking server and from an export: the same, and what is missing is said."""

from __future__ import annotations

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import report
from analysis.read.cell_store import StoredRuns
from analysis.read.export import EXPORT, Export
from analysis.read.mlflow_store import TrackingStore
from ltsearch import cli
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import sweep_lock
from ltsearch.store.records import CellRecord, FigureRequest, PairedTest
from tests.analysis.figures_data import SWEEP, Row, fill
from trainables.errors import UserError

NAMES = ["a", "b", "c"]
AWAY = "http://127.0.0.1:9"  # a port that nothing listens on


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of cells and an MLflow database of the same runs, with every part that looks at single images."""
    rows = [Row("BSCE", strength=1.0), Row("NCL++", experts=2, strength=2.5), Row("no arrays", keep=None)]
    kinds = ("class_accuracy", "class_kl", "hardest_negative", "predictions", "tsne", "shifted_test")
    figures = [FigureRequest(kind=kind) for kind in kinds]
    folder = tmp_path_factory.mktemp("place")
    asked: dict[str, Any] = {"figures": figures, "paired_tests": [PairedTest(row="NCL++", reference="BSCE")]}
    fill(folder, rows, [300, 50, 10], names=NAMES, per_class=30, **asked)
    return folder


def database(place: Path) -> str:
    return f"sqlite:///{place / 'mlflow.db'}"


def stored(place: Path, tracking_uri: str | None = None) -> StoredRuns:
    return StoredRuns(str(place / "store"), tracking_uri or database(place))


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def written(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report from the store, with its export."""
    folder = tmp_path_factory.mktemp("written") / "out"
    report.write_report(SWEEP, stored(place), folder, export=True)
    return folder


def test_an_export_writes_the_report_again_to_the_byte(written: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    shutil.copy(written / EXPORT, moved / EXPORT)
    assert report.main(["--from", str(moved / EXPORT)]) == 0
    again, first = files(moved), files(written)
    assert again.keys() == first.keys() and len(first) > 25
    assert [name for name in first if again[name] != first[name]] == []


def test_the_server_says_the_same_and_can_be_exported(place: Path, written: Path, tmp_path: Path) -> None:
    report.write_report(SWEEP, TrackingStore(database(place)), tmp_path / "out", export=True)
    first, second = files(written), files(tmp_path / "out")
    texts = [of["report.md"].decode().partition("## Behind it")[0] for of in (first, second)]
    assert texts[0] == texts[1]
    assert [n for n in second if n not in ("report.md", EXPORT) and second[n] != first[n]] == []
    report.main(["--from", str(tmp_path / "out" / EXPORT)])
    assert files(tmp_path / "out") == second


def test_an_export_has_no_weights_and_no_logits(written: Path, place: Path) -> None:
    with zipfile.ZipFile(written / EXPORT) as archive:
        names = archive.namelist()
        kept: set[str] = set()
        for name in names:
            if name.endswith(".npz"):
                with np.load(io.BytesIO(archive.read(name))) as arrays:
                    kept |= set(arrays.files)
    assert {name.rsplit(".")[-1] for name in names} == {"json", "npz"}
    assert "logits" not in kept and "features" not in kept
    assert {"predicted_single", "hardest_negative", "disagreement", "features_0", "labels"} <= kept
    assert len([name for name in names if name.endswith("record.json")]) == 9


def test_links_and_their_absence(place: Path, written: Path, tmp_path: Path) -> None:
    """A server that is away costs the links, and nothing else."""
    report.write_report(SWEEP, stored(place, AWAY), tmp_path)
    away, there = ((f / "report.md").read_text().partition("## Behind it") for f in (tmp_path, written))
    assert away[0] == there[0]
    assert f"From the records of the store; runs are not linked ({AWAY}: the tracking store does not answer" in away[2]
    assert "not linked" not in there[2]
    assert TrackingStore(database(place)).page("1", "abc") == ""


def test_a_page_of_a_server() -> None:
    server = TrackingStore("http://user:secret@127.0.0.1:9/mlflow/")
    assert server.page("12", "abc") == "http://127.0.0.1:9/mlflow/#/experiments/12/runs/abc"


def changed(place: Path, folder: Path, change: Callable[[CellRecord], CellRecord]) -> tuple[Path, str]:
    """A copy of the store with one record changed; that record's cell."""
    shutil.copytree(place, folder / "copy")
    store = StoredRuns(str(folder / "copy" / "store"), "").store
    cell = sorted(f.name for f in (folder / "copy" / "store" / "cells").iterdir())[0]
    record = store.read(cell)
    assert record is not None
    store.write(change(record))
    return folder / "copy", cell


def test_a_store_and_a_server_that_disagree(place: Path, tmp_path: Path) -> None:
    def better(record: CellRecord) -> CellRecord:
        last = record.history[-1]
        metrics = {**last.metrics, "test/single_top1": last.metrics["test/single_top1"] / 2}
        return record.model_copy(
            update={"history": [*record.history[:-1], last.model_copy(update={"metrics": metrics})]}
        )

    copy, cell = changed(place, tmp_path, better)
    runs = StoredRuns(str(copy / "store"), database(place)).sweep(SWEEP)
    told = [note for note in runs.notes if "disagree" in note]
    assert len(told) == 1 and f"cell `{cell}`: test/single_top1 is " in told[0] and "in the store" in told[0]
    assert stored(place).sweep(SWEEP).notes == ()


def test_what_the_store_has_lost_comes_from_the_server(place: Path, tmp_path: Path, written: Path) -> None:
    shutil.copytree(place, tmp_path / "copy")
    cells = sorted((tmp_path / "copy" / "store" / "cells").iterdir())
    for cell in cells[:4]:
        shutil.rmtree(cell)
    (cells[4] / "record.json").write_text("{")
    source = StoredRuns(str(tmp_path / "copy" / "store"), database(place))
    runs = source.sweep(SWEEP)
    assert len(runs.frame) == 8
    assert any("4 finished cells are no longer in the store" in note for note in runs.notes)
    assert any(cells[4].name in note and "it does not count" in note for note in runs.notes)
    assert source.records([cells[0].name])[cells[0].name].class_names == NAMES


def damaged(export: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """A copy of an export with parts changed or left out."""
    with zipfile.ZipFile(export) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = change(name, archive.read(name))
            if content is not None:
                copy.writestr(name, content)
    return target


def test_broken_records_of_an_export_are_named_and_counted(written: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(written / EXPORT) as archive:
        cells = [name.split("/")[1] for name in archive.namelist() if name.endswith("record.json")]

    def change(name: str, content: bytes) -> bytes | None:
        if name == f"cells/{cells[0]}/record.json":
            return content.replace(b'"status":"finished"', b'"status":"done"')
        if name == f"cells/{cells[1]}/record.json":
            return content.replace(cells[1].encode(), cells[2].encode())
        return None if name == f"cells/{cells[3]}/record.json" else content

    export = Export(damaged(written / EXPORT, tmp_path / EXPORT, change))
    runs = export.sweep(SWEEP)
    assert len(runs.frame) == 6
    assert "2 records of the export are broken and left out" in runs.notes[-1]
    assert f"cell `{cells[0]}` (status: " in runs.notes[-1]
    assert f"cell `{cells[1]}` (it is the record of cell {cells[2]})" in runs.notes[-1]
    report.write_report(SWEEP, export, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert runs.notes[-1] in text and "6 of 9 trials finished" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "cannot be read"),
        (
            lambda name, content: None if name == "plan.json" else content,
            "a part of it is missing or damaged: 'plan.json'",
        ),
        (lambda name, content: b"[" if name == "sweep.json" else content, "a part of it is missing or damaged"),
        (lambda name, content: b"{}" if name == "plan.json" else content, "a part of it is missing or damaged"),
        (
            lambda name, content: content.replace(b'"version": 1', b'"version": 9'),
            "an export of version 9; this one reads up to 1: update ltsearch",
        ),
    ],
)
def test_an_export_that_cannot_be_used(
    written: Path, tmp_path: Path, change: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.zip"
    if change is not None:
        damaged(written / EXPORT, path, change)
    assert report.main(["--from", str(path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and str(path) in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_not_a_zip_file(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(UserError, match=r"x.zip: not the export of a sweep \(not a zip file: "):
        Export(tmp_path / "x.zip")


def test_an_export_of_another_study(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "other.yaml"
    spec.write_text("name: other\n")
    assert (
        report.main([str(spec), "--profile", "tiny", "--from", str(written / EXPORT), "--out", str(tmp_path / "o")])
        == 2
    )
    assert f"the export of sweep '{SWEEP}', not of 'other@tiny'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a study, --all for every sweep of the store, --from an export, or --compare two sweeps"),
        (["--all", "--export"], "--export does not go with --all"),
        (["--from", "x.zip", "--export"], "--export does not go with --from"),
        (["--all", "--from", "x.zip"], "--from does not go with --all"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report.main(words)
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_the_command_finds_the_store(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Path
) -> None:
    """The study's name, and the store as a sweep finds it; ``--all`` too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTSEARCH_STORAGE", str(place / "store"))
    (tmp_path / "study.yaml").write_text(f"name: {SWEEP}\n")
    assert report.main(["study.yaml", "--tracking-uri", database(place), "--export"]) == 0
    assert files(tmp_path / "results" / SWEEP) == files(written)
    assert report.main(["--all", "--tracking-uri", AWAY]) == 0
    assert SWEEP in (tmp_path / "results" / "index.md").read_text()


# -- put back into a store ---------------------------------------------------------------------------------------------


def put_back(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["restore", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_store_that_an_export_was_put_into_gives_the_same_report(
    place: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(written / EXPORT), "--storage", str(tmp_path / "store")]
    code, out, _ = put_back(words, capsys)
    before = CellStore(place / "store")
    finished = [cell for cell in before.cells() if (before.folder(cell) / "record.json").is_file()]
    assert code == 0 and f"{len(finished)} trials put into" in out and "0 were there already" in out
    after = CellStore(tmp_path / "store")
    assert all(after.read(cell) == before.read(cell) for cell in finished)
    shutil.copytree(place / "store" / "sweeps", tmp_path / "store" / "sweeps")
    report.write_report(SWEEP, StoredRuns(str(tmp_path / "store"), database(place)), tmp_path / "out", export=True)
    assert files(tmp_path / "out") == files(written)
    assert f"0 trials put into {tmp_path / 'store'}, {len(finished)} were there already" in put_back(words, capsys)[1]


def test_what_cannot_be_put_back_is_named(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(written / EXPORT) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    records = sorted(name for name in parts if name.endswith("record.json"))
    parts[records[0]] = parts[records[0]][:50]
    parts[records[1]] = parts[records[1]].replace(b'"status":"finished"', b'"status":"failed"')
    parts[records[2]] = parts[records[2]].replace(
        b'"nesterov":true', b'"nesterov":false'
    )  # another version's configuration
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    code, out, _ = put_back([str(tmp_path / "some.zip"), "--storage", str(tmp_path / "store")], capsys)
    assert code == 0 and f"{len(records) - 3} trials put into" in out
    cells = [name.split("/")[1] for name in records]
    assert f"left out, {cells[0]}: it is not JSON" in out and f"left out, {cells[1]}: it has no result (failed)" in out
    assert f"left out, {cells[2]}: the configuration in it is that of cell" in out
    assert not any((tmp_path / "store" / "cells" / cell).exists() for cell in cells[:3])


def test_what_a_sweep_is_training_is_left_to_it(
    place: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CellStore(tmp_path / "store")
    before = CellStore(place / "store")
    cells = [cell for cell in before.cells() if (before.folder(cell) / "record.json").is_file()]
    words = [str(written / EXPORT), "--storage", str(store.root)]
    with sweep_lock(store.sweep_folder("theirs")) as lock:
        assert Claims(store, lock).take(cells[0]) is None
        code, out, _ = put_back(words, capsys)
        assert code == 0 and f"left out, {cells[0]}: sweep theirs (process " in out and "is training it now" in out
        assert store.read(cells[0]) is None and f"{len(cells) - 1} trials put into" in out
    assert "1 trials put into" in put_back(words, capsys)[1]  # it was killed


def test_a_damaged_export_loses_no_more_than_what_is_damaged(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every part in turn is overwritten in the middle; names that are no cell's are not looked at."""
    content = bytearray((written / EXPORT).read_bytes())
    with zipfile.ZipFile(written / EXPORT) as archive:
        parts = [i for i in archive.infolist() if i.filename.startswith("cells/") and i.compress_size > 100]
        records = sum(i.filename.endswith("record.json") for i in archive.infolist())
    for number, part in enumerate(parts[:4]):
        damaged = bytearray(content)
        at = part.header_offset + 30 + len(part.filename) + part.compress_size // 2
        damaged[at : at + 8] = bytes(8 * [255])
        (tmp_path / "some.zip").write_bytes(damaged)
        code, out, err = put_back([str(tmp_path / "some.zip"), "--storage", str(tmp_path / str(number))], capsys)
        assert code == 0 and err == "" and f"{records - 1} trials put into" in out
        assert f"left out, {part.filename.split('/')[1]}: " in out
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("mine/cells/abc/record.json", "{}")
    code, _, err = put_back([str(tmp_path / "other.zip"), "--storage", str(tmp_path / "store")], capsys)
    assert code == 2 and "no trials in it" in err and not (tmp_path / "store").exists()


@pytest.mark.parametrize("content", [b"no archive", None])
def test_a_file_that_is_no_export_is_not_put_back(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "export.zip").write_bytes(content)
    code, _, err = put_back([str(tmp_path / "export.zip"), "--storage", str(tmp_path / "store")], capsys)
    assert code == 2 and "not the export of a sweep" in err and "Traceback" not in err
    assert not (tmp_path / "store").exists()
