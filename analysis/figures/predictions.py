"""Two experts on one test image: Fig. 2(b).

The image is not picked by hand: of the test images of the smallest third of the classes on which experts 0 and 1 predict
different classes, it is the one with the largest symmetric KL distance between them.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures import style
from analysis.figures.classes import CLASS_COLUMNS, Classes, shortened, slant, sort_classes
from analysis.figures.common import Csv, of_one_setting, titles
from analysis.read.finals import Disagreement
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest

CAPTION = "Predictions of two experts for one test image"
SHOWN = 12  # so many classes are all shown
LARGEST = 6  # of each expert, where there are more


@dataclass(frozen=True)
class Predictions:
    """Probabilities of the classes at ``positions`` (in ``classes``, sorted by size) by expert.

    ``kl`` is the mean of both directions, in nats; ``chosen`` the two positions predicted; ``candidates``: among how many
    images this one was chosen.
    """

    row: str
    seed: int
    image: int  # in the test set
    classes: Classes
    true: int  # position
    positions: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], tuple[float, ...]]
    chosen: tuple[int, int]
    kl: float
    candidates: int


def build(context: Context, request: FigureRequest) -> Predictions | None:
    """Of the first row with two experts and full logits; None without one, or if the experts never disagree."""
    for row in of_one_setting(context, request):
        for seed, arrays in context.finals(row, request.seed):
            found = arrays.disagreement() if request.seed in (None, seed) else None
            if found is not None:
                record = context.records(row).get(seed)
                classes = sort_classes(arrays["class_counts"], record.class_names if record is not None else ())
                return _of_run(titles(context)[row.name], seed, int(arrays["labels"][found.image]), found, classes)
    return None


def _of_run(row: str, seed: int, label: int, found: Disagreement, classes: Classes) -> Predictions:
    p = np.exp(found.log_p)[:, list(classes.labels)]  # [2, C], sorted by size
    true = classes.labels.index(label)
    shown = range(p.shape[1]) if p.shape[1] <= SHOWN else _largest(p, true)
    chosen = p.argmax(-1)
    return Predictions(
        row=row,
        seed=seed,
        image=found.image,
        classes=classes,
        true=true,
        positions=tuple(shown),
        probabilities=(tuple(float(p[0, i]) for i in shown), tuple(float(p[1, i]) for i in shown)),
        chosen=(int(chosen[0]), int(chosen[1])),
        kl=found.kl,
        candidates=found.among,
    )


def _largest(p: NDArray[Any], true: int) -> list[int]:
    """Positions of each expert's largest probabilities, and of the true class, sorted by size."""
    tops = [int(i) for row in p for i in np.argsort(-row, kind="stable")[:LARGEST]]
    return sorted({*tops, true})


def render(data: Predictions) -> Figure:
    """Paired bars; the true class is bold."""
    figure = style.figure(style.WIDTH, 3.6)
    axes = figure.subplots()
    at = np.arange(len(data.positions), dtype=float)
    looks = ((style.BLUE, ""), (style.ORANGE, "////"))
    for expert, (colour, hatch) in enumerate(looks):
        x = at + (expert - 0.5) * 0.4
        look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        axes.bar(x, data.probabilities[expert], width=0.38, label=f"expert {expert}", **look)
    names = [f"{shortened(data.classes.names[i])} ({data.classes.sizes[i]})" for i in data.positions]
    axes.set_xticks(at, [style.plain(name) for name in names])
    slant(axes)
    if data.true in data.positions:
        axes.get_xticklabels()[data.positions.index(data.true)].set_fontweight("bold")
    axes.grid(False, axis="x")
    axes.set_xlim(-0.6, len(at) - 0.4)
    axes.set_ylim(0, min(1.0, 1.1 * max(map(max, data.probabilities))))
    axes.set_ylabel("probability")
    every = "" if len(data.positions) == len(data.classes.labels) else f", {len(at)} of {len(data.classes.labels)}"
    axes.set_xlabel(f"class (training images), most first{every}; bold: the true one")
    title = f"{data.row}: test image of “{data.classes.names[data.true]}”, {_images(data.classes.sizes[data.true])}"
    axes.set_title(style.plain("\n".join(textwrap.wrap(title, 90))))
    style.legend(figure, *axes.get_legend_handles_labels())
    return figure


def _images(size: int) -> str:
    return f"{size} training image{'s' if size != 1 else ''}"


def table(data: Predictions) -> Csv:
    """One line for every class shown and expert."""
    header = ["row", "seed", "image", "kl", "expert", *CLASS_COLUMNS, "true", "predicted", "probability"]
    rows: list[list[object]] = []
    for expert, probabilities in enumerate(data.probabilities):
        for at, p in zip(data.positions, probabilities, strict=True):
            said = [at == data.true, at == data.chosen[expert], p]
            rows.append([data.row, data.seed, data.image, data.kl, expert, *data.classes.cells(at), *said])
    return header, rows


def describe(data: Predictions) -> str:
    """What is predicted, and how the image was chosen."""
    told = []
    for expert, at in enumerate(data.chosen):
        p = data.probabilities[expert][data.positions.index(at)]
        told.append(f"expert {expert} predicts “{data.classes.names[at]}” with {p:.2f}")
    true = f"“{data.classes.names[data.true]}” ({_images(data.classes.sizes[data.true])})"
    return (
        f"Probabilities that two experts of “{data.row}” (seed {data.seed}) give to the classes for test image {data.image}, "
        f"in truth {true}: {told[0]}, {told[1]}. Of {data.candidates} images of the smallest third of the classes on which "
        f"they disagree, it is the one with the largest symmetric KL distance ({data.kl:.2f} nats)."
    )
