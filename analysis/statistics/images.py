"""McNemar's test over several pairs of runs on the same test images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.signal import convolve
from scipy.stats import binom


def mcnemar(right: NDArray[np.bool_], reference_right: NDArray[np.bool_]) -> float:
    """The exact two-sided p-value that the two rows are right as often, stratified by image.

    ``right``, ``reference_right``: ``[S, N]``, of ``S`` seeds and ``N`` test images. With ``d_i`` the number of seeds in which
    only the row gets image ``i`` right, minus that in which only the reference does, the statistic is ``|Σ_i d_i|``. Were the
    rows alike, each ``d_i`` might as well have the other sign: all seeds of an image change sides together, since what is hard
    about an image is so in every seed, and counting them apart would take one image for ``S``. With one seed this is McNemar's
    (1947) exact test.
    """
    d = right.astype(np.int64).sum(0) - reference_right.astype(np.int64).sum(0)  # [N]
    sizes = np.bincount(np.abs(d))
    # Of Σ ±k over n images: 2k·Binomial(n, ½) - kn. All of them are summed on the lattice of Σ_k k·Binomial(n_k, ½).
    chances = np.ones(1)
    for k, n in enumerate(sizes.tolist()):
        if k and n:
            one = np.zeros(k * n + 1)
            one[::k] = binom.pmf(np.arange(n + 1), n, 0.5)
            chances = np.clip(convolve(chances, one), 0, None)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return min(1.0, float(chances[np.abs(sums) >= abs(int(d.sum()))].sum()))
