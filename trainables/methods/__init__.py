"""The catalogue of methods.

A method is one folder: ``options.py`` (typed options, torch-free, so that a plan needs no torch) and ``method.py`` (what
turns logits into a loss). Adding one means adding the folder and one line here; it is imported when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from trainables.methods.base import Method
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


def _load(dotted: str) -> Any:
    module, name = dotted.rsplit(".", 1)
    return getattr(import_module(module), name)


def options_class(name: str) -> type[MethodOptions]:
    """The options of a method in the catalogue."""
    cls: type[MethodOptions] = _load(METHODS[name].options)
    return cls


def method_class(name: str) -> type[Method]:
    """The implementation of a method in the catalogue; imports torch."""
    cls: type[Method] = _load(METHODS[name].method)
    return cls
