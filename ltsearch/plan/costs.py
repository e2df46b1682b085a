"""``--costs``: what every row of a study costs, counted without training and, for the known data sets, without images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ltsearch.plan import sources
from ltsearch.plan.cells import Plan
from trainables.config import TrialConfig
from trainables.data import SourceKey, source_key

if TYPE_CHECKING:
    from trainables.data.kept import Kept
    from trainables.data.source import Source

# name -> classes, pixels as stored (None: the study's)
_KNOWN: Mapping[str, tuple[int, int | None]] = {
    "digits": (10, 8),
    "cifar10": (10, 32),
    "cifar100": (100, 32),
    "imagenet_lt": (1000, None),
    "places_lt": (365, None),
    "inaturalist2018": (8142, None),
}
_HEAD = ("row", "parameters (M)", "test (G)", "train (G)", "step (G)")


def costs(plan: Plan, root: Path) -> str:
    """A text table: parameters of one expert, and 10⁹ multiply-adds of an image (Table 5 of NCL++ calls them FLOPs).

    ``test``: a prediction of what the row predicts with; ``train``: a forward pass of all experts; ``step``: forward and
    backward, K experts, T copies. A row that builds on other trials is counted without them. Raises ``DataError`` for a data
    set that has to be read and is not there.
    """
    from trainables.cost import count

    lines: list[tuple[str, ...]] = [_HEAD]
    read: dict[SourceKey, Source] = {}
    for row in plan.rows:
        config = row.cells[0].config
        classes, size = _images(config, root, read, plan.loaded.spec.resources.images)
        found = count(config.model, classes, size, config.augmentation.copies)
        test = found.train_gmacs if row.predict == "ensemble" else found.test_gmacs
        numbers = (found.parameters / 1e6, test, found.train_gmacs, found.step_gmacs)
        lines.append((row.label, *(f"{number:.4g}" for number in numbers)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    texts = ["  ".join((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]))) for line in lines]
    return "\n".join([f"{plan.loaded.sweep}: 10⁹ multiply-adds an image", "", *texts])


def _images(config: TrialConfig, root: Path, read: dict[SourceKey, Source], images: Kept) -> tuple[int, int]:
    """Classes and pixels; what has to be ``read`` for them is read once."""
    data = config.data
    classes, size = _KNOWN.get(data.name, (None, None))
    classes = len(data.classes) if data.classes else classes
    size = data.image_size or size
    if classes is not None and size is not None and data.shot_group is None:
        return classes, size
    from trainables.data.longtail import split

    read |= sources.read([config], root, print, read, images=images)
    found = split(data, read[source_key(data)])
    return len(found.class_counts), data.image_size or int(found.train.images.shape[-1])
