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
        "error: dive on the 10 classes of digits (0, 1, 2, 3, …) requires a teacher on the 3 of digits (0, 1, 2" in told
    )
    assert not list(tmp_path.rglob("record.json"))


def test_an_option_of_another_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(write(tmp_path, of_method({"name": "dive", "beta": 0.3}))))
    assert "base: unknown key 'method.beta'; known: name, temperature, power, alpha, bsce" in told


def test_a_power_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, str(write(tmp_path, of_method({"name": "dive", "power": 1.5}))))
    assert "method.power = 1.5: input should be less than or equal to 1" in told
