"""Golden losses: a refactoring reproduces them, a change of a recipe bumps its version.

``python -m tests.trainables.test_golden`` writes them anew, after ``trainables/recipes.py`` (or the ``recipe`` of the method's
options) was bumped. They are taken in float64, so that they hold on every processor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainables.config import DataConfig, TrialConfig
from trainables.data import read_source
from trainables.data.longtail import split
from trainables.recipes import RECIPES
from trainables.run_options import RunOptions
from trainables.training import train

FILE = Path(__file__).with_name("golden.json")
DIGITS: dict[str, Any] = {
    "data": {"name": "digits", "imbalance": {"factor": 30}},
    "model": {"backbone": "resnet8"},
    "schedule": {"name": "cosine", "warmup_epochs": 1},
    "training": {"epochs": 2, "batch_size": 48, "precision": "fp64"},
}
BOTH: dict[str, Any] = {"model": {"backbone": "resnet8", "experts": 2}, "augmentation": {"policy": "sim", "copies": 2}}
CASES: dict[str, dict[str, Any]] = {
    "ce": {"method": {"name": "ce"}},
    "bsce": {"method": {"name": "bsce"}, "augmentation": {"policy": "rand"}},
    "ncl_pp": {"method": {"name": "ncl_pp"}, **BOTH},
    "ncl_pp shared, learnable": {"method": {"name": "ncl_pp", "hard_set": "shared", "weights": "learnable"}, **BOTH},
    "ncl_pp official": {"method": {"name": "ncl_pp", "formulation": "official"}, **BOTH},
    "ncl_pp auto": {"method": {"name": "ncl_pp"}, **BOTH, "augmentation": {"policy": "auto", "copies": 2}},
    "ncl_pp mixup": {"method": {"name": "ncl_pp"}, **BOTH, "augmentation": {"mix": "mixup", "copies": 2}},
    "cosine resnet10": {
        "method": {"name": "bsce"},
        "model": {"backbone": "resnet10", "stem": "cifar", "classifier": "cosine"},
        "data": {"name": "digits", "imbalance": {"factor": 100, "profile": "step"}},
    },
}


def measure(name: str) -> dict[str, Any]:
    config = TrialConfig.model_validate({**DIGITS, **CASES[name]})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = split(config.data, read_source(DataConfig(name="digits"), Path("data")))
        reports = list(train(config, data, RunOptions()))
    finally:
        torch.set_num_threads(before)
    return {
        "recipes": {**RECIPES, f"method.{config.method.name}": config.method.recipe},
        "losses": [r.metrics["train/loss"] for r in reports],
        "test": reports[-1].metrics["test/single_top1"],
    }


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    want, got = json.loads(FILE.read_text())[name], measure(name)
    assert got["recipes"] == want["recipes"], "a recipe was bumped: write the golden losses anew, see above"
    message = "numbers changed: if that is meant, bump the recipe version of the part that changed and write them anew"
    assert got["losses"] == pytest.approx(want["losses"], rel=1e-8), message
    assert got["test"] == pytest.approx(want["test"], abs=0.005), message


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: measure(name) for name in CASES}, indent=1) + "\n")
