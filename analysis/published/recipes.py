"""What the papers' own numbers were made with: as printed, else as the released code has it (docs/methods).

Numbers that a paper cites have no recipe here, and nothing of ours stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.published.numbers import Number

_SGD = {"optimizer.momentum": 0.9, "optimizer.weight_decay": 2e-4, "optimizer.nesterov": True}
_COSINE = {"schedule.name": "cosine"}
_CIFAR = {"augmentation.crop": "resize_crop", "augmentation.fill": (0, 128)}
_STEPS = {**_CIFAR, "schedule.name": "multistep", "schedule.warmup_epochs": 5, "model.classifier": "linear"}
_LARGE = {
    # The text's crop out of 256 pixels and RandAugment, and the code's out of the picture and on timm's scale.
    "data.aspect": ("keep", "whole"),
    "augmentation.rand": (None, "rand-n2-m10-mstd0.5", "rand-n2-m10-mstd0.5-inc1"),
    **_SGD,
    **_COSINE,
    "optimizer.lr": 0.2,
    "images a step": 256,
    "model.classifier": "cosine",
}
# (paper, data set) -> configuration keys and their values, a tuple where the text at hand leaves several. "images a step":
# training.batch_size times training.accumulate.
_TRAINED: dict[tuple[str, str], dict[str, Any]] = {
    ("ncl_pp", "cifar"): {
        **_SGD, **_STEPS, "optimizer.lr": 0.1, "images a step": 64, "schedule.milestones": [320, 360], "schedule.gamma": 0.1,
    },
    ("ncl_pp", "imagenet_lt"): _LARGE,
    ("ncl_pp", "inaturalist2018"): _LARGE,
    ("ncl_pp", "places_lt"): {
        **_LARGE, "optimizer.lr": 0.02, "images a step": 128, "schedule.name": "multistep", "schedule.milestones": [10, 20],
        "schedule.gamma": 0.1, "model.pretrained": True,
    },
    ("dive", "cifar"): {
        "optimizer.momentum": 0.9, "optimizer.weight_decay": 2e-4, **_STEPS, "optimizer.lr": 0.1, "images a step": 128,
        "schedule.milestones": [120, 160], "schedule.gamma": 0.01,
    },
    ("dive", "imagenet_lt"): {
        **_COSINE, "data.aspect": "keep", "augmentation.crop": "resize_crop", "augmentation.color_jitter": 0.4,
        "optimizer.momentum": 0.9, "optimizer.lr": 0.2, "images a step": 512,
    },
    ("dive", "inaturalist2018"): {
        **_COSINE, "data.aspect": "keep", "augmentation.crop": "random_resized_crop", "optimizer.momentum": 0.9,
        "optimizer.lr": 0.1, "images a step": 256,
    },
}  # fmt: skip
# What changes the numbers of every method and is nowhere in these papers but at its neutral value.
_NEUTRAL = {
    "sampling.name": "instance", "optimizer.clip_norm": None, "training.batch_norm_groups": 1, "model.shared": "none",
    "augmentation.flip": True, "augmentation.rand": None, "augmentation.crop_scale": [0.08, 1.0], "augmentation.cutout": None,
    "method.label_smoothing": 0.0, "method.reweight": "none",
    "method.formulation": ("paper", "official"),
}  # fmt: skip
_PARTS = {"inter": "InterCL", "intra": "IntraCL", "nfl": "NFL"}
_ONE_NETWORK = {"model.experts": 1, "augmentation.copies": 1}
_NCL = {
    "model.experts": 3, "augmentation.copies": 2, "method.nfl": True, "method.beta": 0.3, "method.inter_weight": 0.6,
    "method.contrastive_weight": 1.0,
}  # fmt: skip
_RIDE = {  # by its code for CIFAR-100-LT
    **_STEPS, "optimizer.lr": 0.1, "optimizer.weight_decay": 5e-4, "images a step": 128, "schedule.milestones": [160, 180],
    "schedule.gamma": 0.01, "model.classifier": "cosine", "model.shared": "stage1", "augmentation.copies": 1,
    "method.reweight": ("none", "effective"),
}  # fmt: skip
_SOFT, _SHARP = {"method.temperature": 3.0, "method.power": 0.5}, {"method.temperature": 1.0, "method.power": 1.0}
_TEACHER = {"method.bsce": False, "method.target": "teacher"}
_FACTORED = {"method.bsce": False, "method.target": "label_factored"}
_DIVE = {
    **_ONE_NETWORK,
    "method.bsce": True,
    "method.target": "teacher",
    "method.teacher": {},
    "method.alpha": (0.5, 0.75),
}
_TABLE_6 = {  # of DiVE
    "#1": {},
    "#2": {**_FACTORED, "method.temperature": 1.0},
    "#3": _TEACHER,
    "#4": {**_TEACHER, **_SHARP},
    "#5": {**_FACTORED, **_SHARP},
    "#6": _FACTORED,
}


def recipe(number: Number) -> dict[str, Any] | None:
    """Dotted keys of the configuration that the number was made with; None where that is not known."""
    family = "cifar" if number.dataset.startswith("cifar") else number.dataset
    found = {**_NEUTRAL, **_TRAINED.get((number.paper, family), {})}
    method = number.method or ("dive" if number.row in _TABLE_6 else "")
    match number.paper, method:
        case _ if number.epochs is None:
            return None
        case _, "ce" | "bsce":
            found |= _ONE_NETWORK
        case "ncl_pp", "ncl":
            found |= _NCL
        case "ncl_pp", "ncl_pp":
            found |= _ncl_pp(number)
        case "dive", "dive":
            found |= {**_DIVE, **(_SOFT if family == "cifar" else {}), **_TABLE_6.get(number.row, {})}
            found |= {"method.power": 1.0} if family == "imagenet_lt" else {}
        case "dive", "" if number.row == "PC CE":
            method = "post_hoc_adjustment"
            found |= _ONE_NETWORK
        case "dive", "" if number.row == "RIDE-DiVE teacher":
            method = "ride"
            found |= {**_RIDE, "model.experts": 6, "method.loss": "bsce"}
        case "dive", "ride_dive":
            method = "dive"
            found |= {**_RIDE, "model.experts": 4, "method.alpha": 0.75}
        case _:
            return None
    return {**found, "method.name": method}


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
        "method.detach_teacher": False,
        "model.experts": 2 if "InterCL" in named else 1,
        "augmentation.copies": copies if "IntraCL" in named else 1,
    }


def differences(number: Number, config: Mapping[str, Any]) -> list[str]:
    """``key ours instead of theirs``, of the keys that a configuration has."""
    made = recipe(number)
    if made is None:
        return (
            ["recipe not printed"] if number.epochs is not None else []
        )  # else: epochs not printed, which is said already
    training = config.get("training", {})
    found = []
    for key, theirs in made.items():
        if key == "images a step":
            ours = training["batch_size"] * training.get("accumulate", 1) if "batch_size" in training else theirs
        else:
            section, name = key.split(".")
            ours = config.get(section, {}).get(name, theirs)
        ours = list(ours) if isinstance(ours, tuple) and not isinstance(theirs, tuple) else ours
        if ours != theirs and not (isinstance(theirs, tuple) and ours in theirs):
            found.append(f"{key} {_text(ours)} instead of {_text(theirs)}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " or ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
