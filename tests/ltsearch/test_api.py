"""``import ltsearch``: a study as an object; the notebook of the docs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import ltsearch
from ltsearch.api import name_of
from ltsearch.plan.cells import make_cell
from ltsearch.plan.layout import make_plan
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import ROOT, environment, study, write
from tests.ltsearch.helpers import record as a_record
from trainables import custom
from trainables.config import TrialConfig
from trainables.data import read_source
from trainables.data.longtail import split
from trainables.errors import UserError


def valley(parameters: Mapping[str, Any], seed: int, folder: Any) -> Iterator[dict[str, float]]:
    for _ in range(3):
        yield {"val/accuracy": 1 - (parameters["x"] - 0.7) ** 2, "train/loss": 0.5}


def test_a_file_and_a_mapping_are_the_same_study(tmp_path: Path) -> None:
    path = write(tmp_path, study())
    known = make_plan(load(path, assignments=[{"base": {"method": {"beta": 0.5}}}], seeds=3))
    for given in (path, str(path), study()):
        made = ltsearch.load(given, set={"base.method.beta": 0.5}, seeds=3)
        assert [cell.id for cell in made.layout.cells] == [cell.id for cell in known.cells]
        assert made.name == "synthetic" and "seeds=3" in made.loaded.command
    profiled = ltsearch.load(study(profiles={"one": {"seeds": 1}}), profile="one")
    assert profiled.name == "synthetic@one" and len(profiled.layout.cells) == 3
    assert repr(profiled) == "Study synthetic@one: 3 rows, 3 cells, a search of 8 trials"


def test_plan_is_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = ltsearch.load(study()).plan()
    assert "Ablation: 3 rows, 6 cells (6 missing)" in said and said._repr_html_().startswith("<pre>synthetic")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"set": {"base.method.betta": 1}}, "betta"),
        ({"profile": "none"}, "--profile 'none': no such profile"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"trainable": lambda parameters, seed, folder: iter(())}, "must be a function with a name of its own"),
    ],
)
def test_a_mistake_is_one_error(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        _ = ltsearch.load(study(), **given).layout
    with pytest.raises(UserError, match="never run"):
        ltsearch.load(study(name="nobody_ran_this")).status()


def test_what_is_not_there_is_no_attribute() -> None:
    assert ltsearch.load is not None and name_of(valley) == f"{__name__}:valley"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = ltsearch.nothing


# -- a trainable of the user's own -----------------------------------------------------------------------------------------


def config(**over: Any) -> TrialConfig:
    tree = {"function": f"{__name__}:valley", "parameters": {"x": 0.5}, **over}
    return TrialConfig.model_validate({"custom": tree, "training": {"epochs": 3}})


def reports(trial: TrialConfig, function: custom.Trainable | None = None) -> list[Any]:
    data = split(trial.data, read_source(trial.data, Path("nowhere")))  # the embedded digits: it has no images of ours
    return list(custom.train(trial, data, None, function))


def test_epochs_become_reports() -> None:
    found = reports(config())
    assert [(r.epoch, r.done) for r in found] == [(1, False), (2, False), (3, True)]
    assert found[0].metrics["val/accuracy"] == pytest.approx(0.96) and found[0].metrics["seconds"] >= 0


def test_its_version_and_parameters_are_the_cells() -> None:
    from ltsearch.store.ids import cell_id

    ids = {cell_id(config()), cell_id(config(version=2)), cell_id(config(parameters={"x": 0.6}))}
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([3], "yielded 3: must be a mapping"),
        ([{"accuracy": 1.0}], "'accuracy': metrics are called train/…, val/… or test/…"),
        ([{"val/accuracy": "high"}], "val/accuracy = 'high': not a number"),
        ([{"val/accuracy": 1.0}], "ended after epoch 1: training.epochs = 3"),
    ],
)
def test_what_it_yields_is_checked(values: list[Any], says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        reports(config(), lambda parameters, seed, folder: iter(values))


def test_it_may_go_on_and_diverge() -> None:
    went_on = reports(config(), lambda *_: iter([{"epoch": 2, "val/a": 1.0}, {"val/a": 2.0}]))
    assert [(r.epoch, r.done) for r in went_on] == [(2, False), (3, True)]
    (diverged,) = reports(config(), lambda *_: iter([{"train/loss": float("nan")}]))
    assert diverged.diverged and diverged.done


def test_what_is_not_finite_is_left_out() -> None:
    (first, *_) = reports(config(), lambda *_: iter([{"val/a": float("nan"), "val/b": 0.5}] * 3))
    assert set(first.metrics) == {"val/b", "seconds"}


def test_what_it_keeps_is_in_a_folder_of_its_own_and_goes_with_the_cell(tmp_path: Path) -> None:
    """A run again from the start must not go on from the checkpoint of the one before."""
    cell = make_cell(config().model_dump(mode="json"), 0, "test")
    store = CellStore(tmp_path)
    data = split(cell.config.data, read_source(cell.config.data, Path("nowhere")))

    def keeps(parameters: Mapping[str, Any], seed: int, folder: Any) -> Iterator[dict[str, float]]:
        begun = int((folder / "epoch").read_text()) if (folder / "epoch").exists() else 0
        for epoch in range(begun + 1, 4):
            yield {"epoch": epoch, "val/a": 0.1 * epoch}
            (folder / "epoch").write_text(str(epoch))

    def train(epochs: int) -> list[int]:
        run = custom.train(cell.config, data, store.folder(cell.id), keeps)
        found = [report.epoch for report in itertools.islice(run, epochs)]
        run.close()
        return found

    record = a_record().model_copy(update={"cell": cell.id, "config": cell.config.model_dump(mode="json")})
    assert train(3) == [1, 2, 3] and (store.folder(cell.id) / "own" / "epoch").read_text() == "2"
    assert train(1) == [3]  # goes on
    for forget in (lambda: store.clear(cell.id), lambda: store.settle(record, Status.FINISHED)):
        forget()
        assert train(2) == [1, 2]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere_at_all:train", "ModuleNotFoundError"),
        (f"{__name__}:nothing", "AttributeError"),
        (f"{__name__}:ROOT", "is no function"),
    ],
)
def test_a_function_that_is_not_there(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        custom.find(name)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader runs it; what it shows is there, and the search finds the valley."""
    import nbformat
    from nbclient import NotebookClient

    for name, value in {**environment(tmp_path), "LTSEARCH_NOTEBOOK": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "docs" / "notebooks" / "study.ipynb", as_version=4)
    done = NotebookClient(notebook, timeout=280, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [out.get("data", {}) for cell in done.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("| BSCE |" in data.get("text/markdown", "") for data in shown)
    assert any("Ablation: 2 rows, 4 cells" in data.get("text/html", "") for data in shown)
    assert sum("image/png" in data for data in shown) == 2
    (best,) = [data["text/plain"] for data in shown if "val/accuracy" in data.get("text/plain", "")]
    assert abs(float(best.partition("custom.parameters.x': ")[2].partition("}")[0]) - 0.7) < 0.15
    assert os.listdir(tmp_path / "results") and (tmp_path / "mlflow.db").exists()
