"""How metrics and parameters are called in tables and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ltsearch.store.records import CLASS_SUMMARIES, GROUPS, STEP_GMACS, TEST, TRAIN, VAL

_SPLITS = {VAL: "validation", TEST: "test", TRAIN: "training"}
_COSTS = {STEP_GMACS: "training step (10⁹ multiply-adds per image)", "seconds": "seconds an epoch"}
_FRACTIONS = ("top1", "top1_max", "top5", "top5_max", *CLASS_SUMMARIES, *GROUPS)  # ends of names that are accuracies


_NAMES = {
    "digits": "Digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "caltech101": "Caltech-101",
    "imagenet_lt": "ImageNet-LT", "places_lt": "Places-LT", "inaturalist2018": "iNaturalist 2018",
}  # fmt: skip
_BACKBONE = re.compile(r"(resnet|resnext)(\d+)")


def printed(name: str) -> str:
    """A data set or a backbone as papers print it: ``ImageNet-LT``, ``ResNet-32``; others as they are."""
    found = _BACKBONE.fullmatch(name)
    if found is not None:
        return f"{'ResNet' if found[1] == 'resnet' else 'ResNeXt'}-{found[2]}"
    return _NAMES.get(name, name)


def scale(metric: str) -> float:
    """100 for accuracies, which are stored as fractions and shown in percent; 1 for everything else."""
    return 100.0 if metric.endswith(_FRACTIONS) else 1.0


def label(metric: str) -> str:
    """``val/ensemble_top1`` as ``validation ensemble top-1 (%)``."""
    for prefix, split in _SPLITS.items():
        if metric.startswith(prefix):
            name = metric.removeprefix(prefix).replace("_top", " top-").replace("_", " ").replace("top1", "top-1")
            return f"{split} {name}" + (" (%)" if scale(metric) == 100 else "")
    return _COSTS.get(metric) or metric.replace("_", " ")


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """``method.beta`` as ``beta``, where no other key ends so."""
    everything = list(keys)
    last = [key.rsplit(".", 1)[-1] for key in everything]
    return {key: end if last.count(end) == 1 else key for key, end in zip(everything, last, strict=True)}


def text(value: object) -> str:
    """Print a parameter's value: 4 significant digits for floats, ``on`` and ``off`` for switches."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def setting(params: Mapping[str, object]) -> str:
    """``beta = 0.3, experts = 2``."""
    names = short_names(params)
    return ", ".join(f"{names[key]} = {text(value)}" for key, value in params.items())
