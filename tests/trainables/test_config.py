"""The trial's configuration: rules across fields, and that it needs no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from trainables.config import TrialConfig


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"method": {"name": "ncl_pp", "beta": 1.5}}, "less than or equal to 1"),
        ({"augmentation": {"copies": 0}}, "greater than or equal to 1"),
        ({"model": {"experts": 0}}, "greater than or equal to 1"),
        ({"method": {"name": "nclpp"}}, "unknown method 'nclpp'; known methods: ce, focal, class_balanced"),
        ({"method": "ncl_pp"}, "must be a mapping with a `name`"),
        ({"training": {"epochs": 10}, "schedule": {"milestones": [5, 10]}}, r"\[10\] do not lie inside the 10 epochs"),
        ({"schedule": {"milestones": [9, 5]}}, "must rise"),
        ({"schedule": {"name": "cosine", "milestones": [5]}}, "go with `name: multistep`"),
        (
            {"training": {"epochs": 5}, "schedule": {"warmup_epochs": 5}},
            "warmup_epochs = 5 must be < training.epochs = 5",
        ),
        ({"schedule": {"min_lr": 1.0}}, "must be <= optimizer.lr"),
        ({"optimizer": {"momentum": 0}}, "nesterov needs momentum > 0"),
        ({"data": {"name": "parquet"}}, "data.path is missing"),
        ({"data": {"name": "cifar10", "path": "x"}}, "goes with `name: parquet`"),
        ({"model": {"backbone": "resnet32", "stem": "imagenet"}}, "does not exist for 'resnet32'"),
        ({"method": {"name": "ncl_pp", "formulation": "official", "hard_set": "shared"}}, "has no effect under"),
        (
            {"method": {"name": "ncl_pp", "formulation": "official"}, "augmentation": {"mix": "mixup"}},
            "not defined for",
        ),
        ({"training": {"epochs": float("nan")}}, "epochs"),
        ({"optimizer": {"lr": float("inf")}}, "finite"),
    ],
)
def test_rules(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrialConfig.model_validate(tree)


def test_methods_take_their_own_options_only() -> None:
    with pytest.raises(ValidationError, match="method.beta"):
        TrialConfig.model_validate({"method": {"name": "ce", "beta": 0.3}})
    assert TrialConfig.model_validate({"method": {"name": "bsce"}}).method.name == "bsce"


def test_round_trip_changes_nothing() -> None:
    config = TrialConfig.model_validate({"method": {"name": "ncl_pp", "beta": 0.5}, "schedule": {"milestones": [3, 9]}})
    assert TrialConfig.model_validate(config.model_dump(mode="json")) == config
    assert TrialConfig.model_validate_json(config.model_dump_json()) == config


def test_needs_no_torch() -> None:
    code = "import sys, trainables.config; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
