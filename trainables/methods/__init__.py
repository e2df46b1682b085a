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


METHODS: dict[str, Entry] = {
    "ce": Entry("trainables.methods.ce.options.CEOptions", "trainables.methods.ce.method.CE"),
    "bsce": Entry("trainables.methods.bsce.options.BSCEOptions", "trainables.methods.bsce.method.BSCE"),
    "ncl_pp": Entry("trainables.methods.ncl_pp.options.NCLppOptions", "trainables.methods.ncl_pp.method.NCLpp"),
    "offline_distillation": Entry(
        "trainables.methods.offline_distillation.options.OfflineDistillationOptions",
        "trainables.methods.offline_distillation.method.OfflineDistillation",
    ),
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
