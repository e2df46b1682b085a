"""The command line: the plan, and bad input: one clear message, exit code 2, nothing written or lost."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ltsearch.plan import placement
from ltsearch.plan.layout import make_plan
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import Resources, load
from ltsearch.sweep import main
from tests.ltsearch.helpers import ROOT, environment, study, write
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("LTSEARCH_DATA", str(tmp_path / "data"))


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """Run, expect exit code 2, one message, no traceback, and nothing new in the folder."""
    before = set(tmp_path.rglob("*"))
    assert main(list(words)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: ") and "Traceback" not in shown.err + shown.out
    assert set(tmp_path.rglob("*")) == before
    return shown.err


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"base.method.betta": 1}, "did you mean 'beta'"),
        ({"base.training.epochs": "x"}, "training.epochs = 'x'"),
        ({"base.method.beta": 1.5}, "method.beta = 1.5"),
        ({"base.augmentation.copies": 0}, "augmentation.copies = 0"),
        ({"base.method.name": "nclplus"}, "known methods: ce, focal, class_balanced"),
        (
            {"base.data.name": "imagenet"},
            "known: digits, cifar10, cifar100, imagenet_lt, places_lt, inaturalist2018, parquet, folder",
        ),
        ({"search.space.method.nothing": {"uniform": [0, 1]}}, "no configuration key"),
        ({"resources.gpus_per_worker": 64}, "one trial needs 64 GPUs (the largest node has 0)"),
        ({"resources.cpus_per_worker": 4096}, "one trial needs 4096 CPUs (the largest node has"),
        ({"base.data": {"name": "parquet", "path": "birds"}}, "no folder"),
        ({"base.data": {"name": "folder", "path": "birds"}}, "no folder"),
        ({"search.val_per_class": 500}, "leaves no training image"),
        ({"base.training.accumulate": 9}, "training.accumulate = 9 needs as many batches an epoch"),
    ],
)
def test_bad_studies(over: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tree = study(**{k: v for k, v in over.items() if ".space." not in k})
    if "search.space.method.nothing" in over:
        tree["search"]["space"]["method.nothing"] = over["search.space.method.nothing"]
    told = refused(capsys, tmp_path, str(write(tmp_path, tree)))
    assert message in told


def test_files_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = str(write(tmp_path, study()))
    (tmp_path / "bad.yaml").write_text("{a: [")
    assert "not YAML" in refused(capsys, tmp_path, "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: {{ name }}\n")
    assert "cannot be a key" in refused(capsys, tmp_path, "bad.yaml")
    assert "no such file" in refused(capsys, tmp_path, "none.yaml")
    assert "no such profile" in refused(capsys, tmp_path, good, "--profile", "tiny")
    assert "--set 'epochs'" in refused(capsys, tmp_path, good, "--set", "epochs")
    assert "--seeds 'a'" in refused(capsys, tmp_path, good, "--seeds", "a")
    assert "--max-concurrent 0" in refused(capsys, tmp_path, good, "--max-concurrent", "0")


def test_a_ray_client_address(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ltsearch.run.runner import ray_session

    with pytest.raises(UserError, match="Ray Client addresses do not work here"):
        with ray_session("ray://host:10001", logs=False):
            pass


def test_a_trial_lies_on_one_node() -> None:
    two = [{"CPU": 2.0}, {"CPU": 3.0, "GPU": 1.0}]
    assert placement.check(Resources(cpus_per_worker=1), two) == 5
    assert placement.check(Resources(cpus_per_worker=2), two) == 2
    assert placement.check(Resources(cpus_per_worker=2, max_concurrent=1), two) == 1
    assert placement.check(Resources(cpus_per_worker=1, gpus_per_worker=0.5), two) == 2
    with pytest.raises(UserError, match=r"4 CPUs \(the largest node has 3\)"):
        placement.check(Resources(cpus_per_worker=4), two)
    with pytest.raises(UserError, match=r"more at once than any one node has \(3 CPU, 1 GPU\)"):
        placement.check(Resources(cpus_per_worker=3, gpus_per_worker=1), [{"CPU": 3.0}, {"GPU": 1.0}])


def test_a_tracking_server_that_does_not_answer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    started = time.monotonic()
    told = refused(capsys, tmp_path, str(write(tmp_path, study())), "--tracking-uri", "http://127.0.0.1:9")
    assert "tracking server http://127.0.0.1:9: does not answer" in told and "--tracking-uri" in told
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("uri", ["postgresql://127.0.0.1:9/db", "./mlruns", "sqlite:///no/such/folder/mlflow.db"])
def test_fresh_forgets_nothing_without_a_tracking_store(
    uri: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A database that does not answer, a kind that MLflow gave up, a folder that is not there."""
    path = write(tmp_path, study())
    store, cell = CellStore(tmp_path / "store"), make_plan(load(path)).cells[0]
    config = cell.config.model_dump(mode="json")
    store.write(CellRecord(cell=cell.id, config=config, recipes={}, status=Status.FINISHED))
    told = refused(capsys, tmp_path, str(path), "--fresh", "--tracking-uri", uri)
    assert told.startswith(f"error: tracking server {uri}: ") and len(told.splitlines()) == 1
    assert store.read(cell.id).status is Status.FINISHED


@pytest.mark.parametrize("uri", ["http://user:secret@127.0.0.1:9", "postgresql://user:secret@127.0.0.1:9/db"])
def test_a_password_in_the_tracking_uri_is_refused_and_not_shown(
    uri: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    good = str(write(tmp_path, study()))
    inside = str(write(tmp_path, study(**{"tracking.uri": uri}), "inside.yaml"))
    for words in ([good, "--tracking-uri", uri], [inside]):
        assert main(words) == 2
        shown = capfd.readouterr()
        assert "MLFLOW_TRACKING_PASSWORD" in shown.err and "127.0.0.1:9" in shown.err
        assert "secret" not in shown.out + shown.err and "user:" not in shown.out + shown.err
    assert {p.name for p in tmp_path.iterdir()} == {"study.yaml", "inside.yaml"}


def test_storage_that_is_not_writable(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    told = refused(capsys, tmp_path, str(write(tmp_path, study())), "--storage", "file/store")
    assert "not writable" in told and "--storage" in told
    assert (tmp_path / "file").read_text() == "kept"
    if Path("/proc/self").exists():  # root may write anywhere, but not make a folder there
        assert "not writable" in refused(
            capsys, tmp_path, str(write(tmp_path, study())), "--storage", "/proc/none/store"
        )


def image(size: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (size, size)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("images", "labels", "column", "message"),
    [
        ([image()] * 4, [0, 1, 0, 1], "picture_path", "no image column"),
        ([image(), b"junk", image(), image()], [0, 1, 0, 1], "image", "row 1: not a readable image"),
        ([image()] * 4, [0, 1, 9, 1], "image", "row 2: label 9 in column 'label' is out of range, allowed: 0..1"),
        ([image()] * 4, [0, 0, 0, 0], "image", "classes have no training images: 'b'"),
    ],
)
def test_broken_parquet(
    images: list[bytes],
    labels: list[int],
    column: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data" / "set"
    folder.mkdir(parents=True)
    pictures: Any = [{"bytes": b} for b in images] if column == "image" else ["x.png"] * len(images)
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}
    table = pa.table({column: pictures, "label": labels}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    for part in ("train", "test"):
        pq.write_table(table, folder / f"{part}.parquet")
    tree = study(**{"base.data": {"name": "parquet", "path": "set", "imbalance": {"profile": "natural"}}})
    del tree["search"]
    assert message in refused(capsys, tmp_path, str(write(tmp_path, tree)))


def test_a_sweep_that_runs_already(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from ltsearch.store.locks import SweepLock

    with SweepLock(tmp_path / "store" / "sweeps" / "synthetic"):
        assert "already being run" in refused(capsys, tmp_path, str(write(tmp_path, study())))


def test_packages_from_two_places(tmp_path: Path) -> None:
    (tmp_path / "intruder" / "analysis").mkdir(parents=True)
    (tmp_path / "intruder" / "analysis" / "__init__.py").write_text("")
    path = write(tmp_path, study())
    env = {**environment(tmp_path), "PYTHONPATH": f"{tmp_path / 'intruder'}:{ROOT}"}
    command = [sys.executable, "-m", "ltsearch.sweep", str(path), "--plan"]
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 2 and f"package 'analysis' comes from {tmp_path / 'intruder'}" in ran.stderr


def test_the_plan_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    path, env = write(tmp_path, study()), environment(tmp_path)
    (tmp_path / "mlflow.db").unlink()
    code = (
        "import sys; from ltsearch.sweep import main; code = main([sys.argv[1], '--plan']); "
        "heavy = {'torch', 'ray', 'mlflow', 'optuna'} & set(sys.modules); "
        "print('heavy:', heavy, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert ran.returncode == 0 and "heavy: set()" in ran.stderr, ran.stderr
    assert "Ablation: 3 rows, 6 cells (6 missing); reference: base" in ran.stdout
    assert "method.beta          uniform [0, 1]" in ran.stdout
    assert "one trial needs 1 CPU, 0 GPU; this machine has" in ran.stdout
    assert "Time: 6 ablation cells" in ran.stdout
    assert list(tmp_path.iterdir()) == [path]  # nothing was written


def test_the_plan_shows_what_is_done(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = write(tmp_path, study())
    cells = make_plan(load(path)).cells
    store = CellStore(tmp_path / "store")
    for cell, status in zip(cells, (Status.FINISHED, Status.RUNNING, Status.FAILED, Status.DIVERGED), strict=False):
        history = [Epoch(epoch=1, metrics={"seconds": 8.0})]
        config = cell.config.model_dump(mode="json")
        store.write(CellRecord(cell=cell.id, config=config, recipes={}, status=status, history=history))
    assert main([str(path), "--plan"]) == 0
    shown = capsys.readouterr().out
    assert "(1 diverged, 1 done, 1 failed, 1 interrupted, 2 missing)" in shown
    assert f"0: {cells[0].id} done" in shown and "from 1 finished cells" in shown


def test_a_published_table_must_be_there_before_hours_are_spent(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One that does not exist is refused with the list of those that do, by the plan and by the sweep."""
    tree = study(**{"report.published": [{"paper": "ncl_pp", "table": "7"}, {"paper": "ncl_pp", "table": "11"}]})
    path = str(write(tmp_path, tree))
    for words in ([path, "--plan"], [path]):
        told = refused(capsys, tmp_path, *words)
        assert "no table '11' of paper 'ncl_pp'; known papers: dive, ncl_pp, slides; known tables: dive 1, " in told
        assert "ncl_pp 7" in told and told.count("\n") == 1
    tree = study(**{"report.published": [{"paper": "ncl_pp", "table": "7"}]})
    assert main([str(write(tmp_path, tree)), "--plan"]) == 0
