"""The studies that figures are drawn of in the tests, and what is asked of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.figures import (
    FIGURES,
    style,
)
from ltsearch.store.records import FigureRequest
from tests.analysis.figures_data import Row, Study, fill

COUNTS = [50, 200, 200, 10, 5, 120, 10, 20, 100, 19]  # not sorted, and with ties
BY_SIZE = [1, 2, 5, 8, 0, 7, 9, 3, 6, 4]
NAMES = [*"abcdefgh", "costs $5 or $6", "a class with a very long name"]
SEEDS = (0, 1)
FEW, ALL = "20 %", "100 %"
ROWS = [
    Row("BSCE", strength=1.5, virtual=(140.0, 50.0, 12.5)),
    Row("NCL++", experts=3, method={"name": "ncl_pp", "beta": 0.3}, weights=(0.6, 0.6)),
    Row("NCL++ (ensemble)", experts=3, same_as="NCL++", method={"name": "ncl_pp", "beta": 0.3}),
    Row(
        "control: learnable, K experts (ensemble)",
        experts=2,
        method={"name": "ncl_pp", "beta": 0.5},
        weights=(0.5, 0.5),
        drift=0.05,
    ),
    Row("other sizes", method={"name": "ncl_pp", "beta": 1.0}, counts=COUNTS[::-1]),
    Row("large", experts=2, method={"name": "ncl_pp", "beta": 0.3}, keep="top5", shifted=False),
    Row("waiting", method={"name": "ncl_pp", "beta": "all"}, runs=False),
]
CONTROL = "control: learnable, K experts"  # what it is called in figures
REQUESTS: dict[str, dict[str, Any]] = {
    "curve": {"x": "method.beta", "absent": 0.0, "splits": ["all", "many", "medium", "few"]},
    "bars": {"splits": ["all", "few"]},
    "gain": {"rows": ["NCL++", "BSCE"]},
}


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Ten classes, two settings."""
    settings = {FEW: {"data_ratio": 0.2}, ALL: {"data_ratio": 1.0}}
    return fill(tmp_path_factory.mktemp("ten"), ROWS, COUNTS, names=NAMES, settings=settings, seeds=SEEDS)


@pytest.fixture(scope="session")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A hundred and one classes, no names for them, and a key with steps of every size."""
    rows = [
        Row("CE", method={"name": "ce", "beta": 0.001}, virtual=(90.0, 60.0, 30.0)),
        Row("BSCE", experts=2, method={"name": "bsce", "beta": 0.01}),
        Row("NCL++", experts=2, method={"name": "ncl_pp", "beta": 1.0}, weights=(0.6, 0.6)),
    ]
    counts = [max(5, int(500 * 0.95**i)) for i in range(101)]
    return fill(tmp_path_factory.mktemp("hundred"), rows, counts, seeds=SEEDS)


def request_of(kind: str, **over: Any) -> FigureRequest:
    return FigureRequest.model_validate({"kind": kind, **REQUESTS.get(kind, {}), **over})


def render(kind: Any, data: Any) -> Figure:
    with style.style():
        made = FIGURES[kind].render(data)
        made.draw_without_rendering()
    return made


def by_seed(study: Study, row: str, metric: str, setting: str = FEW) -> list[float]:
    return [100 * study.records[setting, row, seed].final[metric] for seed in SEEDS]
