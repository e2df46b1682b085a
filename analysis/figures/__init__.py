"""The figures of the papers, drawn from logged runs: the catalogue of all kinds.

A kind is a module: ``build`` (what is shown, as data), ``render`` (the figure), ``table`` (every number that is drawn) and
``describe`` (for someone who cannot see it). A new kind is a new module and a line here and in ``records.FigureKind``.
"""

from __future__ import annotations

from typing import Any

from analysis.figures import (
    bars,
    class_accuracy,
    class_kl,
    curve,
    hardest_negative,
    loss_weights,
    predictions,
    shifted_test,
    tsne,
    virtual_examples,
)
from analysis.figures.common import Csv, Kind
from ltsearch.records import FigureKind

__all__ = ["FIGURES", "Csv", "Kind"]

FIGURES: dict[FigureKind, Kind[Any]] = {
    "curve": Kind(curve.build, curve.render, curve.table, curve.describe, curve.CAPTION),
    "bars": Kind(bars.build, bars.render, bars.table, bars.describe, bars.CAPTION),
    "class_accuracy": Kind(
        class_accuracy.build,
        class_accuracy.render,
        class_accuracy.table,
        class_accuracy.describe,
        class_accuracy.CAPTION,
    ),
    "class_kl": Kind(class_kl.build, class_kl.render, class_kl.table, class_kl.describe, class_kl.CAPTION),
    "hardest_negative": Kind(
        hardest_negative.build,
        hardest_negative.render,
        hardest_negative.table,
        hardest_negative.describe,
        hardest_negative.CAPTION,
    ),
    "predictions": Kind(
        predictions.build, predictions.render, predictions.table, predictions.describe, predictions.CAPTION
    ),
    "tsne": Kind(tsne.build, tsne.render, tsne.table, tsne.describe, tsne.CAPTION),
    "shifted_test": Kind(
        shifted_test.build, shifted_test.render, shifted_test.table, shifted_test.describe, shifted_test.CAPTION
    ),
    "virtual_examples": Kind(
        virtual_examples.build,
        virtual_examples.render,
        virtual_examples.table,
        virtual_examples.describe,
        virtual_examples.CAPTION,
    ),
    "loss_weights": Kind(
        loss_weights.build, loss_weights.render, loss_weights.table, loss_weights.describe, loss_weights.CAPTION
    ),
}
