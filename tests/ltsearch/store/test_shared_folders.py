"""Folders that several people share: what belongs to somebody else is told in one message, before anything is started."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ltsearch import preflight
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.search.journal import FileJournal
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store import retries
from ltsearch.store.cells import CellStore
from ltsearch.store.locks import SweepLock
from ltsearch.store.retries import StorageError, patiently
from ltsearch.study.spec import load
from ltsearch.sweep import main
from ltsearch.tracking import server
from tests.ltsearch.helpers import record, study, write
from tests.permissions import another_user, public_folder
from trainables.errors import UserError


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, with the study's experiment; made once, since that takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    server.connect(f"sqlite:///{file}").create_experiment("synthetic", artifact_location="file:///nowhere")
    return file


@pytest.fixture
def shared(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that all may write to, with a study, its store and its MLflow database, which are this user's."""
    with public_folder() as folder:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        monkeypatch.setenv("MPLCONFIGDIR", str(folder))
        monkeypatch.setenv("HOME", str(folder))
        plan = make_plan(load(write(folder, study())))
        store = CellStore(folder / "store")
        for number, cell in enumerate(plan.cells[:2]):
            store.write(
                record(seed=0).model_copy(update={"cell": cell.id, "config": cell.config.model_dump(mode="json")})
            )
            (store.folder(cell.id) / "checkpoint.pt").write_bytes(bytes(number))  # type: ignore[union-attr]
        sweep = store.sweep_folder(plan.loaded.sweep)
        SearchStudy(plan, sweep, "content")
        (Path(str(sweep)) / "lock").touch()
        (folder / "store" / "fingerprints.json").write_text("{}")
        shutil.copy(database, folder / "mlflow.db")
        with closing(sqlite3.connect(folder / "mlflow.db")) as tables, tables:
            tables.execute("UPDATE experiments SET artifact_location = ?", ((folder / "artifacts").as_uri(),))
        (folder / "mlruns").mkdir()
        (folder / "artifacts").mkdir()
        (folder / "results" / "synthetic").mkdir(parents=True)
        everything(folder, 0o777, 0o666)
        yield folder
        everything(folder, 0o777, 0o666)


def everything(folder: Path, folders: int, files: int) -> None:
    for place in [folder, *folder.rglob("*")]:
        place.chmod(folders if place.is_dir() else files)


def look(folder: Path) -> None:
    """What a sweep looks at before it starts Ray."""
    plan, store = the_plan(folder)
    uri = preflight.places(plan, store, folder / "data", None)
    preflight.access(plan, store, uri)
    preflight.access_to_cells(store, [cell.config for cell in plan.cells])


def the_plan(folder: Path) -> tuple[Plan, CellStore]:
    return make_plan(load(folder / "study.yaml")), CellStore(folder / "store")


def test_what_is_open_to_all_is_used(shared: Path) -> None:
    look(shared)  # imports what a user who may not read the installation could not
    with another_user():
        look(shared)


@pytest.mark.parametrize(
    ("place", "mode", "said"),
    [
        ("store", 0o555, "--storage {place}: not writable"),
        ("store/cells", 0o555, "--storage {root}/store: {place} is not writable (of {me}, mode 555)"),
        ("store/cells/{cell}", 0o555, "--storage {root}/store: {place} is not writable (of {me}, mode 555)"),
        (
            "store/cells/{cell}/record.json",
            0o600,
            "--storage {root}/store: {place} is not readable (of {me}, mode 600)",
        ),
        ("store/cells/{cell}/checkpoint.pt", 0o600, "{place} is not readable (of {me}, mode 600)"),
        ("store/sweeps", 0o555, "{place} is not writable"),
        ("store/sweeps/synthetic", 0o555, "{place} is not writable"),
        ("store/sweeps/synthetic/lock", 0o644, "{place} is not writable (of {me}, mode 644)"),
        ("store/sweeps/synthetic/optuna.journal", 0o644, "{place} is not writable (of {me}, mode 644)"),
        ("store/fingerprints.json", 0o600, "{place} is not readable (of {me}, mode 600)"),
        ("mlflow.db", 0o644, "tracking server sqlite:///{place}: {place} is not writable (of {me}, mode 644)"),
        ("mlruns", 0o555, "tracking server sqlite:///{root}/mlflow.db: {place} is not writable (of {me}, mode 555)"),
        ("artifacts", 0o555, "mlflow.db: artifacts of 'synthetic': {place} is not writable (of {me}, mode 555)"),
        (
            "results/synthetic",
            0o555,
            "report.folder = 'results': results/synthetic is not writable; name another folder",
        ),
    ],
)
def test_what_belongs_to_somebody_else(shared: Path, place: str, mode: int, said: str) -> None:
    look(shared)
    plan, _ = the_plan(shared)
    name, me = place.format(cell=plan.cells[1].id), owner()
    (shared / name).chmod(mode)
    with another_user(), pytest.raises(UserError) as refused:
        look(shared)
    told = str(refused.value)
    assert said.format(place=shared / name, root=shared, me=me) in told
    assert "name another" in told


def owner() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def test_a_sticky_folder_lets_only_owners_replace(shared: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    plan, store = the_plan(shared)
    folder = Path(str(store.folder(plan.cells[1].id)))
    look(shared)
    folder.chmod(0o1777)
    with (
        another_user(),
        pytest.raises(UserError, match="record.json cannot be replaced .of root, mode 666, and its folder"),
    ):
        look(shared)


def test_another_users_finished_cells_need_only_be_readable(shared: Path) -> None:
    plan, store = the_plan(shared)
    look(shared)
    folder = Path(str(store.folder(plan.cells[0].id)))
    folder.chmod(0o555)
    (folder / "record.json").chmod(0o444)
    with another_user():
        assert store.read(plan.cells[0].id) is not None
        preflight.access_to_cells(store, [plan.cells[2].config])


def test_the_command_says_it_once_and_starts_nothing(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the record that cannot be read to the plan, without a wait."""

    def join(*_: Any) -> None:
        raise UserError("Ray would be started")

    monkeypatch.setattr("ltsearch.sweep.join", join)
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits"))
    plan, store = the_plan(shared)
    file = Path(str(store.folder(plan.cells[0].id))) / "record.json"
    assert main(["study.yaml"]) == 2 and "Ray would be started" in capsys.readouterr().err
    file.chmod(0o600)
    for words in (["study.yaml", "--plan"], ["study.yaml"]):
        with another_user():
            assert main(words) == 2
        shown = capsys.readouterr()
        assert shown.err.count("error: ") == 1 and "Traceback" not in shown.err
        assert f"{file}: Permission denied, for nobody; let its owner open it" in shown.err or os.geteuid() != 0


def test_the_lock_and_the_journal_say_it_too(shared: Path) -> None:
    folder = shared / "store" / "sweeps" / "synthetic"
    for file, use in ((folder / "lock", lambda: SweepLock(folder).__enter__()), (folder / "optuna.journal", journal)):
        file.chmod(stat.S_IRUSR)
        with (
            another_user(),
            pytest.raises(UserError, match=f"{file}: Permission denied, for .*; let its owner open it"),
        ):
            use()


def journal() -> Any:
    return FileJournal(Path("store/sweeps/synthetic/optuna.journal").absolute())


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "x"), OSError(30, "Read-only file system", "x")]
)
def test_what_may_not_be_written_is_not_waited_for(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSE_SECONDS", 1e9)

    def refused() -> None:
        raise error

    with pytest.raises(StorageError, match=f"the storage may not be written to .{error.strerror}: x."):
        patiently(refused, pytest.fail)
