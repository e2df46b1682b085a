"""Versions of the parts that decide a trial's numbers.

A part's version enters the id of every cell that uses it. Bump it when a default changes or when the same configuration
would give other numbers; ``tests/trainables/test_golden.py`` fails until that is done.
"""

from __future__ import annotations

# loop 2: draws are keyed by an image's occurrence in the epoch too.
RECIPES: dict[str, int] = {"data": 1, "augmentation": 1, "model": 1, "loop": 2}

# Of single data sets, where it is another one. inaturalist2018 2: normalised by the statistics of its own images.
DATA: dict[str, int] = {"inaturalist2018": 2}
