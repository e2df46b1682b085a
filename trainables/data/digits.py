"""scikit-learn's handwritten digits: 1,797 images of 8×8 pixels in the package itself, no download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.source import Part, Source, make_source, resize_all

if TYPE_CHECKING:
    from trainables.config import DataConfig

TEST_PER_CLASS = 50


def read(config: DataConfig, root: Path) -> Source:
    """Grey values 0..16 as uint8 RGB; the test split is fixed and stratified: the last 50 images of each class."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[:, None], 3, axis=1)
    images = resize_all(images, config.resize)
    labels = bunch.target.astype(np.int64)
    is_test = np.zeros(len(labels), bool)
    for j in range(10):
        is_test[np.flatnonzero(labels == j)[-TEST_PER_CLASS:]] = True
    return make_source(
        "digits",
        tuple(str(j) for j in range(10)),
        Part(images[~is_test], labels[~is_test]),
        Part(images[is_test], labels[is_test]),
        mean=(0.3055, 0.3055, 0.3055),
        std=(0.3759, 0.3759, 0.3759),
    )
