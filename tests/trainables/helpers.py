"""Shared by the tests of losses and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.data.longtail import TrialData, split
from trainables.data.source import Source
from trainables.methods import METHODS, method_class, options_class
from trainables.methods.base import Batch, Method
from trainables.overrides import merge, nest
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import train


def make_method(z: Tensor, counts: list[int], *, precision: str = "fp64", name: str = "ncl_pp", **options: Any) -> Any:
    """A method for logits of this shape."""
    config = TrialConfig.model_validate(
        {
            "model": {"experts": z.shape[0]},
            "augmentation": {"copies": z.shape[1]},
            "method": {"name": name, **options},
            "training": {"precision": precision},
        }
    )
    return method_class(name)(config, torch.tensor(counts)).to(z.dtype)


def make_batch(
    z: Tensor,
    labels: list[int],
    partner: list[int] | None = None,
    coefficient: list[float] | None = None,
    epoch: int = 0,
) -> Batch:
    """A batch of logits ``[K, T, B, C]``."""
    return Batch(
        inputs=torch.empty(0),
        features=torch.empty(0),
        occurrence=torch.zeros(len(labels), dtype=torch.int64),
        logits=z,
        labels=torch.tensor(labels),
        image=torch.arange(len(labels)),
        epoch=epoch,
        seed=0,
        partner_labels=None if partner is None else torch.tensor(partner),
        coefficient=None if coefficient is None else torch.tensor(coefficient, dtype=z.dtype),
        teacher_logits=(z.detach().flip(-1),),  # looked at by methods with teachers only
    )


# Methods that turn logits into a loss and do nothing else: their losses can be taken without a network.
LOGITS_ONLY = [name for name in METHODS if method_class(name).step is Method.step and name not in ("lfme",)]
TRAINED = [name for name in LOGITS_ONLY if method_class(name).fit is Method.fit]


def small_trial(name: str, *overrides: dict[str, Any]) -> TrialConfig:
    """A trial of a method that takes a second: ResNet-8 on a few digits, with what the method wants elsewhere."""
    tree: dict[str, Any] = {
        "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.25},
        "model": {"backbone": "resnet8"},
        "optimizer": {"lr": 0.02},
        "training": {"epochs": 3, "batch_size": 32},
        "method": {"name": name},
    }
    for over in (options_class(name).wants, SHORT.get(name, {}), *overrides):
        tree = merge(tree, nest(over))
    return TrialConfig.model_validate(tree)


# What the digits, and a second's patience, ask of some.
SHORT: dict[str, dict[str, Any]] = {
    **{name: {"method": {"epochs": 3}} for name in METHODS if "epochs" in options_class(name).model_fields},
    "lfme": {"method.groups": ["medium", "few"]},
    "tau_norm": {"method.selection_per_class": 1},
    "ncl": {"method": {"queue": 100, "dimension": 8}},
    "paco": {"method": {"queue": 100, "dimension": 8}},
    "bcl": {"method": {"dimension": 8}},
    "ride_distillation": {"method": {"teacher_experts": 2}},
    "one_way_smoothing": {"method": {"flatness": 0.8}},
}


def required_weights(config: TrialConfig, source: Source, folder: Path) -> tuple[Path, ...]:
    """Train what a trial requires, each once below ``folder``; their ``weights.pt``."""
    from ltsearch.store.ids import cell_id

    paths = []
    for _, first in config.method.requires(config):
        where = folder / cell_id(first)
        if not (where / "weights.pt").exists():
            run = RunOptions(folder=where, keep_final=True, required=required_weights(first, source, folder))
            list(train(first, split(first.data, source), run))
        paths.append(where / "weights.pt")
    return tuple(paths)


def run_with_requirements(config: TrialConfig, source: Source, folder: Path) -> tuple[list[Report], TrialData]:
    """Train what comes first and then the trial itself; its reports and data."""
    required, data = required_weights(config, source, folder), split(config.data, source)
    return list(train(config, data, RunOptions(required=required))), data
