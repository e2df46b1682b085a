"""Differences to the reference, learning curves, accuracy against cost, gain against fit, against sums made by hand."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from analysis.figures import (
    accuracy_cost,
    forest,
    gain,
    learning_curves,
)
from ltsearch.store.records import FigureRequest
from tests.analysis.figure_requests import COUNTS, render, request_of
from tests.analysis.figures_data import Row, Study, fill

# -- forest, learning curves, accuracy and cost ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> Study:
    rows = [Row("CE", strength=0.5), Row("BSCE", strength=1.5), Row("NCL++", experts=2), Row("waiting", runs=False)]
    return fill(tmp_path_factory.mktemp("three"), rows, COUNTS, seeds=(0, 1, 2), per_class=30)


def accuracies(study: Study, row: str) -> list[float]:
    return [100 * study.records["", row, seed].final["test/single_class_mean"] for seed in (0, 1, 2)]


def test_a_forest_has_the_tables_intervals_and_a_dot_a_seed(three_seeds: Study) -> None:
    data = forest.build(three_seeds.context, request_of("forest"))
    assert data is not None
    (panel,) = data.panels
    (table,) = three_seeds.context.tables
    assert panel.reference == "CE" and [line.row for line in panel.lines] == ["BSCE", "NCL++"]
    reference = statistics.mean(accuracies(three_seeds, "CE"))
    for line in panel.lines:
        (row,) = [r for r in table.rows if r.name == line.row]
        assert line.difference == row.difference and line.difference.interval is not None
        own = [value - reference for value in accuracies(three_seeds, line.row)]
        assert list(line.seeds.values()) == pytest.approx(own)
    (axes,) = render("forest", data).axes
    drawn = [list(np.asarray(line.get_xdata(), dtype=float)) for line in axes.lines]
    assert list(panel.lines[0].difference.interval or ()) in drawn
    only = forest.build(three_seeds.context, request_of("forest", rows=["NCL++"]))
    assert only is not None and [line.row for line in only.panels[0].lines] == ["NCL++"]


def test_learning_curves_have_the_mean_and_the_extremes_of_seeds(three_seeds: Study) -> None:
    data = learning_curves.build(three_seeds.context, request_of("learning_curves"))
    assert data is not None and list(data.panels) == ["train/loss", "train/top1"]  # test: in the last epoch only
    line = next(line for line in data.panels["train/top1"] if line.row == "BSCE")
    histories = [three_seeds.records["", "BSCE", seed].history for seed in (0, 1, 2)]
    for at, epoch in enumerate(line.epochs):
        values = [100 * history[epoch - 1].metrics["train/top1"] for history in histories]
        assert line.points[at].mean == pytest.approx(statistics.mean(values))
        assert (line.low[at], line.high[at]) == pytest.approx((min(values), max(values)))
    assert data.left_out == ()


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(1.0, 50.0), (2.0, 60.0), (2.0, 55.0), (3.0, 59.0)], {0, 1}),
        ([(1.0, 50.0), (1.0, 50.0)], {0, 1}),
        ([(1.0, 50.0), (0.5, 50.0)], {1}),
        ([(4.0, 10.0)], {0}),
    ],
)
def test_the_pareto_front(points: list[tuple[float, float]], best: set[int]) -> None:
    assert accuracy_cost.front(points) == best


def test_accuracy_against_cost(three_seeds: Study) -> None:
    data = accuracy_cost.build(three_seeds.context, request_of("accuracy_cost"))
    assert data is not None and {p.row: p.cost for p in data.points} == {"CE": 1.5, "BSCE": 1.5, "NCL++": 3.0}
    by_row = {p.row: p for p in data.points}
    assert by_row["NCL++"].accuracy.mean == pytest.approx(statistics.mean(accuracies(three_seeds, "NCL++")))
    assert not by_row["CE"].front and by_row["BSCE"].front
    assert accuracy_cost.build(three_seeds.context, request_of("accuracy_cost", rows=["CE"])) is None


# -- gain --


def request(**over: object) -> FigureRequest:
    return FigureRequest.model_validate({"kind": "gain", "rows": ["NCL++", "control"], **over})


def test_a_point_a_setting_and_prediction(tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [Row("control", strength=0.5, experts=2), Row("NCL++", strength=1.5, experts=2), Row("waiting", runs=False)]
    settings = {"short": {}, "long": {"data_ratio": 0.5}}
    study = fill(tmp_path_factory.mktemp("gain"), rows, COUNTS, seeds=(0, 1, 2), per_class=30, settings=settings)
    data = gain.build(study.context, request())
    assert data is not None and (data.row, data.reference) == ("NCL++", "control")
    assert [(p.setting, p.predict) for p in data.points] == [
        (setting, predict) for setting in settings for predict in ("single", "ensemble")
    ]
    for point in data.points:
        metric = f"test/{point.predict}_class_mean"

        def of(row: str, name: str, setting: str = point.setting) -> list[float]:
            return [100 * study.records[setting, row, seed].final[name] for seed in (0, 1, 2)]

        ours, theirs = of("NCL++", metric), of("control", metric)
        assert point.gain == pytest.approx(statistics.mean(ours) - statistics.mean(theirs))
        error = math.sqrt(statistics.variance(ours) / 3 + statistics.variance(theirs) / 3)
        assert point.error == pytest.approx(error) and point.seeds == (3, 3)
        assert point.fit == pytest.approx(statistics.mean(of("control", "train/top1")))
    only = gain.build(study.context, request(setting="long", predict=["single"]))
    assert only is not None and len(only.points) == 1
    header, lines = gain.table(data)
    assert len(header) == len(lines[0]) and len(lines) == 4
    assert gain.build(study.context, request(rows=["waiting", "control"])) is None


@pytest.mark.parametrize("rows", [[], ["NCL++"], ["a", "b", "c"]])
def test_it_takes_two_rows(rows: list[str]) -> None:
    with pytest.raises(ValueError, match="a figure of kind 'gain' takes two"):
        request(rows=rows)
