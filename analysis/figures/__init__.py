"""The figures of the papers, drawn from logged runs: the catalogue of all kinds.

A kind is a module: ``build`` (what is shown, as data), ``render`` (the figure), ``table`` (every number that is drawn) and
``describe`` (for someone who cannot see it). A new kind is a new module and a line here and in ``records.FigureKind``.
"""

from __future__ import annotations

from typing import Any

from analysis.figures import (
    accuracy_cost,
    bars,
    class_accuracy,
    class_kl,
    curve,
    forest,
    gain,
    hardest_negative,
    learning_curves,
    loss_weights,
    predictions,
    shifted_test,
    tsne,
    virtual_examples,
)
from analysis.figures.common import Csv, Kind
from ltsearch.store.records import FigureKind

__all__ = ["DEFAULT_FIGURES", "FIGURES", "Csv", "Kind"]

# Of a study that asks for none: those that every study has something for.
DEFAULT_FIGURES: tuple[FigureKind, ...] = ("forest", "learning_curves", "accuracy_cost")

_MODULES: dict[FigureKind, Any] = {
    "curve": curve,
    "bars": bars,
    "class_accuracy": class_accuracy,
    "class_kl": class_kl,
    "hardest_negative": hardest_negative,
    "predictions": predictions,
    "tsne": tsne,
    "shifted_test": shifted_test,
    "virtual_examples": virtual_examples,
    "loss_weights": loss_weights,
    "forest": forest,
    "learning_curves": learning_curves,
    "accuracy_cost": accuracy_cost,
    "gain": gain,
}
FIGURES: dict[FigureKind, Kind[Any]] = {
    kind: Kind(module.build, module.render, module.table, module.describe, module.CAPTION)
    for kind, module in _MODULES.items()
}
