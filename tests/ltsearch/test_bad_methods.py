"""Methods whose options, first stages or teachers do not fit: refused before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.sweep import main
from tests.ltsearch.helpers import study, write
from tests.ltsearch.test_refusals import own_folder, refused  # noqa: F401


def of_method(method: dict[str, Any]) -> dict[str, Any]:
    """A study of one row."""
    tree = study(**{"base.model": {"backbone": "resnet8"}})
    del tree["search"]
    return {**tree, "base": {**tree["base"], "method": method}, "ablation": {"rows": [{"name": "only"}]}}


def test_a_start_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = of_method({"name": "crt", "stage1": {"model.backbone": "resnet14"}})
    told = refused(capsys, str(write(tmp_path, tree)))
    assert "crt goes on from the weights of ce (resnet14, K = 1), which do not fit resnet8, K = 1: experts.0." in told
    assert " has no place" in told and "give both the same `model`" in told


def test_a_teacher_that_knows_other_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = of_method({"name": "dive", "teacher": {"data.classes": ["0", "1", "2"]}})
    assert main([str(write(tmp_path, tree))]) == 2
    told = capsys.readouterr().err
    assert (
        "study.yaml: row 'only': dive on the 10 classes of digits (0, 1, 2, 3, …) requires a teacher on the 3 of "
        in told
    )
    assert not list(tmp_path.rglob("record.json"))


def test_an_option_of_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(write(tmp_path, of_method({"name": "dive", "beta": 0.3}))))
    assert "base: unknown key 'method.beta'; known: name, temperature, power, alpha, bsce" in told


def test_a_power_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(write(tmp_path, of_method({"name": "dive", "power": 1.5}))))
    assert "method.power = 1.5: input should be less than or equal to 1" in told


def test_routing_without_a_ride_to_route(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(write(tmp_path, of_method({"name": "ride_routing"}))))
    assert "ride_routing chooses among the experts of a trained RIDE: set model.experts >= 2" in told


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"name": "power", "q": 4.0}, "'power', q = 4 leaves class '9' (2 images) without images: "),
        ({"name": "undersample"}, "'undersample' leaves 20 images an epoch (2 of each of 10 classes), fewer than "),
    ],
)
def test_samplers_that_leave_too_little(
    sampling: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a sampler leaves is known with the data: the sweep says it before anything starts."""
    tree = of_method({"name": "ce"})
    tree["base"]["data"] = {"name": "digits", "imbalance": {"factor": 60}}
    tree["base"] |= {"sampling": sampling, "training": {"epochs": 1, "batch_size": 256}}
    assert main([str(write(tmp_path, tree))]) == 2
    told = capsys.readouterr().err
    assert f"study.yaml: row 'only': sampling.name = {said}" in told
    assert not list(tmp_path.rglob("record.json"))


def test_a_first_stage_that_rows_share_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that is a row is named; one that no row shows, with its cells."""
    tree = of_method({"name": "ce"})
    named = {name: {"name": name, "set": {"method": {"name": name}}} for name in ("crt", "lws", "dive")}
    named["dive"]["set"] = {"method": {"name": "dive", "teacher": {"data.imbalance.factor": 2}}}
    tree["ablation"]["rows"] = [{"name": "joint"}, *named.values()]
    assert main([str(write(tmp_path, tree)), "--plan"]) == 0
    shown = capsys.readouterr().out.split("Trained first, once for all that build on it:\n")[1].splitlines()
    assert shown[:2] == ["  row 'joint', for 'crt', 'lws'", "  bsce (data.imbalance.factor=2.0), for 'dive'"]
    assert shown[2].startswith("    seed 0: ") and shown[2].count(" missing") == 2 and shown[3] == ""
