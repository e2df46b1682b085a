"""Shared fixtures: small configurations and data, real images where they lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets; skips where there is none."""
    root = os.environ.get("LTSEARCH_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("LTSEARCH_DATA does not point at a folder with cifar10/*.parquet")
    return Path(root)


def read_digits() -> Any:
    """The digits as a source."""
    from trainables.config import DataConfig
    from trainables.data import read_source

    return read_source(DataConfig(name="digits"), Path("data"))


@pytest.fixture(scope="session")
def digits() -> Any:
    """The digits, read once."""
    return read_digits()


@pytest.fixture
def tiny_source() -> Any:
    """60 random 8×8 images of 3 classes."""
    from trainables.data.source import Part, make_source

    random = np.random.default_rng(0)
    part = lambda n: Part(random.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8), np.arange(n) % 3)  # noqa: E731
    return make_source("random", ("a", "b", "c"), part(60), part(15))
