"""The catalogue of methods.

A method is one folder: ``options.py`` (typed options, torch-free, so that a plan needs no torch) and ``method.py`` (what
turns logits into a loss). Adding one means adding the folder and one line here; it is imported when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trainables import catalogue

if TYPE_CHECKING:
    from trainables.methods.base import AnyMethod
    from trainables.methods.options import MethodOptions


class Entry(NamedTuple):
    """Dotted paths of a method's options and of its implementation."""

    options: str
    method: str


def _entry(folder: str, name: str) -> Entry:
    where = f"trainables.methods.{folder}"
    return Entry(f"{where}.options.{name}Options", f"{where}.method.{name}")


METHODS: dict[str, Entry] = {
    "ce": _entry("ce", "CE"),
    "focal": _entry("focal", "Focal"),
    "class_balanced": _entry("class_balanced", "ClassBalanced"),
    "ldam": _entry("ldam", "LDAM"),
    "softmax_eql": _entry("softmax_eql", "SoftmaxEQL"),
    "bsce": _entry("bsce", "BSCE"),
    "logit_adjustment": _entry("logit_adjustment", "LogitAdjustment"),
    "post_hoc_adjustment": _entry("post_hoc_adjustment", "PostHocAdjustment"),
    "crt": _entry("crt", "CRT"),
    "lws": _entry("lws", "LWS"),
    "tau_norm": _entry("tau_norm", "TauNorm"),
    "ncm": _entry("ncm", "NCM"),
    "disalign": _entry("disalign", "DisAlign"),
    "weight_balancing": _entry("weight_balancing", "WeightBalancing"),
    "cam_sampling": _entry("cam_sampling", "CAMSampling"),
    "bbn": _entry("bbn", "BBN"),
    "lfme": _entry("lfme", "LFME"),
    "ride": _entry("ride", "RIDE"),
    "ride_routing": _entry("ride_routing", "RIDERouting"),
    "ride_distillation": _entry("ride_distillation", "RIDEDistillation"),
    "ncl": _entry("ncl", "NCL"),
    "ncl_pp": _entry("ncl_pp", "NCLpp"),
    "independent_experts": _entry("independent_experts", "IndependentExperts"),
    "dml": _entry("dml", "DML"),
    "sade": _entry("sade", "SADE"),
    "balpoe": _entry("balpoe", "BalPoE"),
    "offline_distillation": _entry("offline_distillation", "OfflineDistillation"),
    "dive": _entry("dive", "DiVE"),
    "virtual_examples": _entry("virtual_examples", "VirtualExamples"),
    "one_way_smoothing": _entry("one_way_smoothing", "OneWaySmoothing"),
    "paco": _entry("paco", "PaCo"),
    "bcl": _entry("bcl", "BCL"),
}

DEFAULT_METHOD = "ncl_pp"  # of a configuration that names none


def options_class(name: str) -> type[MethodOptions]:
    """The options of a method in the catalogue."""
    cls: type[MethodOptions] = catalogue.load(METHODS[name].options)
    return cls


def method_class(name: str) -> type[AnyMethod]:
    """The implementation of a method in the catalogue; imports torch."""
    cls: type[AnyMethod] = catalogue.load(METHODS[name].method)
    return cls
