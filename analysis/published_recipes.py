"""What the papers' own numbers were made with: as printed, else as the released code has it (docs/methods).

Numbers that a paper cites have no recipe here. Their epochs are not printed, which alone keeps ours apart from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.published_numbers import Number

_SGD = {"optimizer.momentum": 0.9, "optimizer.nesterov": True}
_COSINE = {"schedule.name": "cosine"}
_LARGE = {**_SGD, **_COSINE, "optimizer.lr": 0.2, "images a step": 256, "model.classifier": "cosine"}
# (paper, data set) -> configuration keys and their values. "images a step": training.batch_size times training.accumulate.
_TRAINED: dict[tuple[str, str], dict[str, Any]] = {
    ("ncl_pp", "cifar"): {
        **_SGD, "optimizer.lr": 0.1, "optimizer.weight_decay": 2e-4, "images a step": 64, "schedule.name": "multistep",
        "schedule.milestones": [320, 360], "schedule.gamma": 0.1, "model.classifier": "linear",
    },
    ("ncl_pp", "imagenet_lt"): _LARGE,
    ("ncl_pp", "inaturalist2018"): _LARGE,
    ("ncl_pp", "places_lt"): {
        **_LARGE, "optimizer.lr": 0.02, "images a step": 128, "schedule.name": "multistep", "schedule.milestones": [10, 20],
        "schedule.gamma": 0.1, "model.pretrained": True,
    },
    ("dive", "cifar"): {
        "optimizer.momentum": 0.9, "optimizer.lr": 0.1, "optimizer.weight_decay": 2e-4, "images a step": 128,
        "schedule.name": "multistep", "schedule.milestones": [120, 160], "schedule.gamma": 0.01, "model.classifier": "linear",
    },
    ("dive", "imagenet_lt"): {**_COSINE, "optimizer.momentum": 0.9, "optimizer.lr": 0.2, "images a step": 512},
    ("dive", "inaturalist2018"): {**_COSINE, "optimizer.momentum": 0.9, "optimizer.lr": 0.1, "images a step": 256},
}  # fmt: skip
# What changes the numbers of every method and is nowhere in these papers but at its neutral value.
_NEUTRAL = {
    "sampling.name": "instance",
    "optimizer.clip_norm": None,
    "training.batch_norm_groups": 1,
    "model.shared": "none",
}
_PARTS = {"inter": "InterCL", "intra": "IntraCL", "nfl": "NFL"}
_ONE_NETWORK = {"model.experts": 1, "augmentation.copies": 1}


def recipe(number: Number) -> dict[str, Any]:
    """Dotted keys of the configuration that the number was made with; empty for a cited number."""
    if number.epochs is None:
        return {}
    family = "cifar" if number.dataset.startswith("cifar") else number.dataset
    found = {**_NEUTRAL, **_TRAINED.get((number.paper, family), {})}
    match number.method:
        case "":  # a variant that no other paper has
            return found
        case "ncl_pp":
            found |= _ncl_pp(number)
        case "ncl":
            found |= {"model.experts": 3, "augmentation.copies": 2}
        case _:
            found |= _ONE_NETWORK
    return {**found, "method.name": number.method}


def _ncl_pp(number: Number) -> dict[str, Any]:
    """β, λ, K and T, and which parts are on: those that the row names, else all."""
    named = [part for part in _PARTS.values() if part in re.split(r"[ +]+", number.row)] or list(_PARTS.values())
    copies = 2 if number.dataset == "imagenet_lt" else 4
    return {
        **{f"method.{key}": part in named for key, part in _PARTS.items()},
        "method.beta": 0.3,
        "method.lambda_intra": 0.6,
        "method.lambda_inter": 0.6,
        "method.weights": "learnable" if number.row == "Learnable" else "fixed",
        "method.hard_select": "top",
        "method.balanced_distillation": True,
        "model.experts": 2 if "InterCL" in named else 1,
        "augmentation.copies": copies if "IntraCL" in named else 1,
    }


def differences(number: Number, config: Mapping[str, Any]) -> list[str]:
    """``key ours instead of theirs``, of the keys that a configuration has."""
    training = config.get("training", {})
    found = []
    for key, theirs in recipe(number).items():
        if key == "images a step":
            ours = training["batch_size"] * training.get("accumulate", 1) if "batch_size" in training else theirs
        else:
            section, name = key.split(".")
            ours = config.get(section, {}).get(name, theirs)
        ours = list(ours) if isinstance(ours, tuple) else ours
        if ours != theirs:
            found.append(f"{key} {_text(ours)} instead of {_text(theirs)}")
    return found


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
