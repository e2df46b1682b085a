"""Checkpoints that can be read and do not fit: said, and trained again from the first epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.test_training import config, weights
from trainables import checkpoint, synthetic
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import train

SMALL = {"model": {"experts": 1}, "augmentation": {"copies": 1, "policy": "none"}, "training": {"epochs": 3}}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(c: TrialConfig, digits: Any, folder: Path, stop_after: int | None = None) -> list[Report]:
    reports = []
    for report in train(c, split(c.data, digits), RunOptions(folder=folder, checkpoint_seconds=0, keep_final=True)):
        reports.append(report)
        if report.epoch == stop_after:
            break
    return reports


def spoil(state: dict[str, Any], how: str) -> dict[str, Any]:
    match how:
        case "no optimizer":
            del state["optimizer"]
        case "another network":
            state["network"] = {"layer": torch.zeros(3)}
        case "half a network":
            state["network"] = dict(list(state["network"].items())[:5])
        case "another momentum":
            for value in state["optimizer"]["state"].values():
                value["momentum_buffer"] = torch.zeros(3, 2)
        case "no text":
            state["network"] = "no text"
        case "an epoch that never comes":
            state["epoch"] = 10**9
        case "no epoch":
            del state["epoch"]
        case "no random numbers":
            state["torch_rng"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no optimizer", "does not fit (KeyError: 'optimizer')"),
        ("another network", "does not fit (RuntimeError: "),
        ("half a network", "does not fit (RuntimeError: "),
        ("another momentum", "does not fit (ValueError: momentum_buffer is [3, 2] instead of ["),
        ("no text", "does not fit ("),
        ("an epoch that never comes", "does not fit (epoch 1000000000 of 3)"),
        ("no epoch", "does not fit (epoch None of 3)"),
        ("no random numbers", "does not fit ("),
    ],
)
def test_a_checkpoint_that_does_not_fit(how: str, said: str, digits: Any, tmp_path: Path) -> None:
    c = config(**SMALL)
    run(c, digits, tmp_path, stop_after=3)  # a checkpoint of epoch 2
    want = weights(tmp_path)
    file = tmp_path / "checkpoint.pt"
    state = checkpoint.load(file)
    assert state is not None
    checkpoint.save(file, spoil(state, how))
    reports = run(c, digits, tmp_path)
    assert [r.epoch for r in reports] == [1, 2, 3]
    assert reports[0].notice.startswith(f"{file} {said}")
    assert reports[0].notice.endswith(": the trial is trained from its first epoch")
    assert [r.notice for r in reports[1:]] == ["", ""]
    got = weights(tmp_path)  # nothing of what was loaded in part is left
    assert got.keys() == want.keys() and all(torch.equal(got[name], want[name]) for name in got)


def test_a_checkpoint_that_is_damaged_is_told_too(digits: Any, tmp_path: Path) -> None:
    c = config(**SMALL)
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    first = run(c, digits, tmp_path, stop_after=1)[0]
    assert first.epoch == 1 and first.notice == (
        f"{tmp_path}/checkpoint.pt is damaged: the trial is trained from its first epoch"
    )


def test_one_that_fits_is_gone_on_from_without_a_word(digits: Any, tmp_path: Path) -> None:
    c = config(**SMALL)
    run(c, digits, tmp_path, stop_after=3)
    assert [(r.epoch, r.notice) for r in run(c, digits, tmp_path)] == [(3, "")]


@pytest.mark.parametrize("state", [{}, {"epoch": "x"}, {"epoch": 99}])
def test_of_a_synthetic_trial(state: dict[str, Any], digits: Any, tmp_path: Path) -> None:
    c = config(synthetic={}, **SMALL)
    checkpoint.save(tmp_path / "checkpoint.pt", state)
    reports = list(synthetic.train(c, split(c.data, digits), RunOptions(folder=tmp_path)))
    assert [r.epoch for r in reports] == [1, 2, 3] and "does not fit (epoch" in reports[0].notice
