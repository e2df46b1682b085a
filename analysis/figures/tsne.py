"""Features of test images in the plane, by t-SNE: Fig. 10. With the silhouette, since a picture alone proves little."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from analysis.figures import style
from analysis.figures.classes import Classes, shortened, sort_classes
from analysis.figures.common import Csv, listed, of_one_setting, omitted, titles
from analysis.tables.context import Context
from ltsearch.store.records import FigureRequest

CAPTION = "Features of test images, by t-SNE"
CLASSES = 10  # at most: more colours are not told apart
PERPLEXITY = 30.0
SEED = 0
_COLUMNS = 3  # panels side by side
_COLOURS = (
    style.BLUE, style.ORANGE, style.GREEN, style.VERMILION, style.SKY, style.PURPLE, style.BLACK, style.OLIVE, style.GREY,
    style.BROWN,
)  # fmt: skip


@dataclass(frozen=True)
class Embedding:
    """One run: test images, the positions of their classes in ``classes``, and where they lie.

    ``silhouette``: of the features themselves, with Euclidean distances as t-SNE takes them, over the classes shown.
    """

    row: str
    seed: int
    images: tuple[int, ...]
    positions: tuple[int, ...]
    points: tuple[tuple[float, float], ...]
    silhouette: float


@dataclass(frozen=True)
class Tsne:
    """A panel a row; ``shown`` are positions in ``classes``. ``left_out``: rows whose classes have other sizes."""

    classes: Classes
    shown: tuple[int, ...]
    rows: tuple[Embedding, ...]
    left_out: tuple[str, ...]


def build(context: Context, request: FigureRequest) -> Tsne | None:
    """Embed the features of expert 0 of one seed of every row; None if no run has kept features of two classes."""
    classes: Classes | None = None
    shown: list[int] = []
    embeddings, left_out = [], []
    called = titles(context)
    for row in of_one_setting(context, request):
        for seed, arrays in context.finals(row, request.seed):
            known = arrays.features() if request.seed in (None, seed) else None
            if known is None:
                continue
            index: NDArray[Any] = arrays["feature_index"]
            labels = arrays["labels"][index]
            record = context.records(row).get(seed)
            own = sort_classes(arrays["class_counts"], record.class_names if record is not None else ())
            if classes is None:
                classes, shown = own, _shown(own, labels)
            if own.sizes != classes.sizes or own.labels != classes.labels:
                left_out.append(called[row.name])
            elif len(shown) > 1:
                at = {classes.labels[i]: i for i in shown}
                kept = np.flatnonzero(np.isin(labels, list(at)))
                features = known[kept].astype(np.float64)
                positions = tuple(at[int(label)] for label in labels[kept])
                points, silhouette = embed(features, np.asarray(positions))
                images = tuple(int(i) for i in index[kept])
                embeddings.append(Embedding(called[row.name], seed, images, positions, points, silhouette))
            break
    if classes is None or not embeddings:
        return None
    return Tsne(classes, tuple(shown), tuple(embeddings), tuple(left_out))


def _shown(classes: Classes, labels: NDArray[Any]) -> list[int]:
    """Positions of at most ``CLASSES`` classes, evenly spread over the sizes, of those with two images or more."""
    present = [i for i, label in enumerate(classes.labels) if int((labels == label).sum()) > 1]
    if len(present) <= CLASSES:
        return present
    return [present[round(i)] for i in np.linspace(0, len(present) - 1, CLASSES)]


def embed(features: NDArray[Any], classes: NDArray[Any]) -> tuple[tuple[tuple[float, float], ...], float]:
    """Points in the plane of features ``[n, D]``, and their silhouette by class."""
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # On one thread: sums in another order would end in another picture.
    with threadpool_limits(1):
        made = TSNE(perplexity=perplexity, init="pca", learning_rate="auto", random_state=SEED).fit_transform(features)
        silhouette = float(silhouette_score(features, classes, metric="euclidean"))
    return tuple((float(x), float(y)) for x, y in made), silhouette


def render(data: Tsne) -> Figure:
    """Colour and marker say the class; the axes of t-SNE mean nothing, and have no ticks."""
    columns = min(_COLUMNS, len(data.rows))
    down = -(-len(data.rows) // columns)
    side = style.WIDTH / max(2, columns)
    width = side * max(2, columns)
    figure = style.figure(width, (side + 0.35) * down + 0.75)
    grid = figure.subplots(down, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        if number >= len(data.rows):
            axes.set_axis_off()
            continue
        shown = data.rows[number]
        points, positions = np.asarray(shown.points), np.asarray(shown.positions)
        size = 12 if len(points) > 600 else 24
        for colour, marker, position in zip(_COLOURS, style.MARKERS, data.shown, strict=False):
            here = points[positions == position]
            axes.scatter(here[:, 0], here[:, 1], s=size, color=colour, marker=marker, linewidths=0, alpha=0.8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color("#BBBBBB")
        name = "\n".join(textwrap.wrap(shown.row, round(side * 13)))
        axes.set_title(style.plain(f"{name}\nsilhouette {_signed(shown.silhouette)}"))
    entries = [f"{shortened(data.classes.names[i])} ({data.classes.sizes[i]})" for i in data.shown]
    looks = zip(_COLOURS, style.MARKERS, data.shown, strict=False)
    style.legend(figure, [Line2D([], [], color=c, marker=m, linestyle="none") for c, m, _ in looks], entries)
    return figure


def _signed(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def table(data: Tsne) -> Csv:
    """One line a point, with the silhouette of its panel."""
    header = ["row", "seed", "silhouette", "image", "class", "class_name", "training_images", "x", "y"]
    rows: list[list[object]] = []
    for shown in data.rows:
        for image, at, point in zip(shown.images, shown.positions, shown.points, strict=True):
            named = [data.classes.labels[at], data.classes.names[at], data.classes.sizes[at]]
            rows.append([shown.row, shown.seed, shown.silhouette, image, *named, *point])
    return header, rows


def describe(data: Tsne) -> str:
    """The silhouettes, which can be compared."""
    told = [f"“{shown.row}” {_signed(shown.silhouette)} (seed {shown.seed})" for shown in data.rows]
    images = len(data.rows[0].images)
    return (
        f"t-SNE of the features of {images} test images of {len(data.shown)} classes, one expert. Mean silhouette of the "
        f"classes in the features themselves, Euclidean, between −1 and 1: {listed(told)}."
    ) + omitted(data.left_out, "for their classes have other sizes")
