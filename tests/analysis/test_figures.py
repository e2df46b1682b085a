"""The figures of the papers: what all kinds have in common, curves and bars, against sums made by hand."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch

from analysis.figures import (
    FIGURES,
    bars,
    curve,
    style,
)
from analysis.figures.common import titles
from analysis.statistics.seeds import Summary
from ltsearch.store.records import FigureKind
from tests.analysis.figure_requests import ALL, CONTROL, FEW, SEEDS, by_seed, render, request_of
from tests.analysis.figures_data import Study

# -- all kinds ---------------------------------------------------------------------------------------------------------


def test_every_kind_is_in_the_catalogue() -> None:
    assert set(FIGURES) == set(get_args(FigureKind))


@pytest.fixture(params=[*FIGURES], scope="module")
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["ten", "hundred"], scope="module")
def drawn(request: pytest.FixtureRequest, kind: Any, study: Study, hundred: Study) -> tuple[Any, Study]:
    """The data of every kind, in both studies."""
    chosen = study if request.param == "ten" else hundred
    return FIGURES[kind].build(chosen.context, request_of(kind)), chosen


def test_nothing_to_draw(kind: Any, study: Study) -> None:
    rows = ["waiting", "BSCE"] if kind == "gain" else ["waiting"]
    assert FIGURES[kind].build(study.context, request_of(kind, rows=rows)) is None


def test_texts(kind: Any, drawn: tuple[Any, Study]) -> None:
    data, _ = drawn
    header, rows = FIGURES[kind].table(data)
    assert rows and len(set(header)) == len(header)
    assert all(len(row) == len(header) for row in rows)
    assert not any(isinstance(cell, float) and math.isnan(cell) for row in rows for cell in row)
    text = FIGURES[kind].describe(data)
    assert text.endswith(".") and "nan" not in text and any(digit in text for digit in "0123456789")
    assert FIGURES[kind].caption


def test_the_csv_has_every_number_that_is_drawn(kind: Any, drawn: tuple[Any, Study]) -> None:
    data, _ = drawn
    header, rows = FIGURES[kind].table(data)
    known: list[float] = []
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        numbers = [float(cell) for cell in row if isinstance(cell, (int, float))]
        std = cells.get("std", cells.get("standard_error"))
        if isinstance(std, float):
            known += [n - std for n in numbers] + [n + std for n in numbers]
        known += numbers + [100 * n for n in numbers]  # shares are drawn in percent
    pool = np.sort(np.asarray(known))
    figure = render(kind, data)
    printed = [float(text.get_text()) for axes in figure.axes for text in axes.texts]
    for number, tolerance in [*((n, 1e-4) for n in numbers_of(figure)), *((n, 0.0051) for n in printed)]:
        nearest = pool[np.clip(np.searchsorted(pool, number) + np.arange(-1, 1), 0, len(pool) - 1)]
        assert np.abs(nearest - number).min() < tolerance, number


def numbers_of(figure: Figure) -> list[float]:
    """Of lines and their error bars, steps, bars and scattered points."""
    found: list[Any] = []
    for axes in figure.axes:
        sideways = axes.get_ylim()[0] > axes.get_ylim()[1]  # accuracies lie on the horizontal axis
        for line in axes.lines:
            if line.get_transform() == axes.transData:
                found += [*np.asarray(line.get_xdata() if sideways else line.get_ydata(), dtype=float)]
        for patch in axes.patches:
            if isinstance(patch, StepPatch):
                found += [*patch.get_data().values]
        for container in axes.containers:
            if isinstance(container, BarContainer):
                found += [bar.get_height() for bar in container]
        for collection in axes.collections:
            if len(collection.get_offsets()) > 1:
                found += [*np.asarray(collection.get_offsets()).ravel()]
    assert found
    return [float(number) for number in found if np.isfinite(number)]


def test_the_same_files_twice(kind: Any, drawn: tuple[Any, Study], tmp_path: Path) -> None:
    data, chosen = drawn
    again = FIGURES[kind].build(chosen.context, request_of(kind))
    assert again == data
    for name, shown in (("first", data), ("second", again)):
        with style.style():
            style.save(FIGURES[kind].render(shown), tmp_path / name)
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second and len(first) > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "first.svg", "second.png", "second.svg"]


def test_nothing_overlaps(kind: Any, drawn: tuple[Any, Study]) -> None:
    figure = render(kind, drawn[0])
    page = figure.bbox
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and box.y1 <= page.y1
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes if axes.axison)
    for axes in figure.axes:
        if not axes.axison:
            continue
        whole = axes.get_tightbbox()
        assert whole.x0 >= -1 and whole.x1 <= page.x1 + 1 and whole.y0 >= -1 and whole.y1 <= page.y1 + 1
        shown = [label for label in axes.get_xticklabels() if label.get_text() and label.get_rotation() == 0]
        ordered = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
        assert all(left.x1 < right.x0 for left, right in zip(ordered, ordered[1:], strict=False))


# -- curve -------------------------------------------------------------------------------------------------------------


def test_rows_are_points_of_a_line(study: Study) -> None:
    data = curve.build(study.context, request_of("curve", setting=FEW, splits=["all", "few"]))
    assert data is not None and list(data.panels) == ["all", "few"]
    for split, metric in (("all", "class_mean"), ("few", "few")):
        single, ensemble, extra, extra_ensemble = data.panels[split]
        assert [(line.name, line.predict) for line in (single, ensemble)] == [("", "single"), ("", "ensemble")]
        # A second row at β = 0.3 does not bend the line; it stands for itself.
        assert [extra.name, extra_ensemble.name] == [f"large, {FEW}"] * 2 and len(extra.points) == 1
        assert [point.x for point in single.points] == [0.0, 0.3, 0.5, 1.0]  # BSCE has no β: absent
        assert [point.row for point in single.points] == ["BSCE", "NCL++", CONTROL, "other sizes"]
        for line in (single, ensemble):
            names = ("BSCE", "NCL++", "control: learnable, K experts (ensemble)", "other sizes")
            for point, name in zip(line.points, names, strict=True):
                values = by_seed(study, name, f"test/{line.predict}_{metric}")
                assert point.accuracy.mean == pytest.approx(statistics.mean(values))
                assert point.accuracy.std == pytest.approx(statistics.stdev(values)) and point.accuracy.n == 2
    # One expert is its own ensemble, and is drawn as such.
    assert data.panels["all"][0].points[0].accuracy == data.panels["all"][1].points[0].accuracy
    assert data.left_out == (f"waiting ({FEW})",)  # β = "all" is no number
    assert "Not drawn" in curve.describe(data)
    ticks = [axes.get_xticks().tolist() for axes in render("curve", data).axes]
    assert ticks == [[0.0, 0.3, 0.5, 1.0]] * 2


def test_rows_without_the_key_are_left_out_unless_absent_says_where(study: Study) -> None:
    data = curve.build(study.context, request_of("curve", setting=FEW, absent=None))
    assert data is not None and data.left_out == (f"BSCE ({FEW})", f"waiting ({FEW})")
    assert curve.build(study.context, request_of("curve", x="no.such.key", absent=None)) is None


def test_rows_are_lines_over_settings_that_differ_in_the_key(study: Study) -> None:
    asked = request_of("curve", x="data.data_ratio", rows=["BSCE", "NCL++"], predict=["single"], splits=["all"])
    data = curve.build(study.context, asked)
    assert data is not None
    assert [(line.name, [p.x for p in line.points]) for line in data.panels["all"]] == [
        ("BSCE", [0.2, 1.0]),
        ("NCL++", [0.2, 1.0]),
    ]
    values = by_seed(study, "NCL++", "test/single_top1", ALL)
    assert data.panels["all"][1].points[1].accuracy.mean == pytest.approx(statistics.mean(values))


def test_settings_are_lines_where_they_share_the_key(study: Study) -> None:
    data = curve.build(study.context, request_of("curve", rows=["BSCE", "NCL++"], splits=["all"], predict=["single"]))
    assert data is not None
    assert [(line.name, [p.x for p in line.points]) for line in data.panels["all"]] == [
        (FEW, [0, 0.3]),
        (ALL, [0, 0.3]),
    ]


def test_ensembles_of_one_expert_are_not_drawn_twice(study: Study) -> None:
    for kind in ("curve", "bars", "class_accuracy"):
        asked = request_of(kind, rows=["BSCE"], setting=FEW, splits=["all"])
        header, rows = FIGURES[kind].table(FIGURES[kind].build(study.context, asked))  # type: ignore[index]
        assert {row[header.index("predict")] for row in rows} == {"single"}


def test_the_largest_and_the_smallest_class(study: Study) -> None:
    """Of the row's own class sizes: classes 1 (200 images, and 2 after it) and 4 (5 images)."""
    for kind in ("curve", "bars"):
        asked = request_of(kind, rows=["NCL++"], splits=["largest_class", "smallest_class"], setting=FEW)
        header, rows = FIGURES[kind].table(FIGURES[kind].build(study.context, asked))  # type: ignore[index]
        found = {(line[header.index("split")], line[header.index("predict")]): line for line in rows}
        for split, label in (("largest_class", 1), ("smallest_class", 4)):
            for predict in ("single", "ensemble"):
                values = [study.records[FEW, "NCL++", seed].per_class[f"test/{predict}"][label] for seed in SEEDS]
                mean = 100 * statistics.mean(v for v in values if v is not None)
                assert found[split, predict][header.index("accuracy")] == pytest.approx(mean)


def test_ticks_that_would_touch(hundred: Study) -> None:
    data = curve.build(hundred.context, request_of("curve"))
    assert data is not None
    axes = render("curve", data).axes[0]
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [0.001, 0.01, 1.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.001", "0.01", "1"]


@pytest.mark.parametrize(("xs", "moved"), [((0.0, 0.5, 1.0), (0.01, 0.51, 1.0)), ((0.001, 0.01, 1.0), None)])
def test_an_ensemble_stands_beside_the_single_expert(xs: tuple[float, ...], moved: tuple[float, ...] | None) -> None:
    """By a hundredth of the axis, where both have a point: not at the last x, which the single expert lacks."""
    spread = Summary(50.0, 1.0, 3)
    points = tuple(curve.Point(x, "row", "", spread) for x in xs)
    lines = (curve.Line("", "single", points[:-1]), curve.Line("", "ensemble", points))
    axes = render("curve", curve.Curve("k", "k", {"all": lines}, (), ())).axes[0]
    single, ensemble = (container.lines[0].get_xdata() for container in axes.containers)
    assert list(single) == list(xs[:-1])
    expected = moved or (0.001 * 1000**0.01, 0.01 * 1000**0.01, 1.0)  # on three decades
    assert list(ensemble) == pytest.approx(expected)
    assert axes.get_xscale() == ("linear" if moved else "log") and set(axes.get_xticks()) == set(xs)
    header, rows = FIGURES["curve"].table(curve.Curve("k", "k", {"all": lines}, (), ()))
    assert {row[header.index("k")] for row in rows} == set(xs)  # the data is where it is


# -- bars --------------------------------------------------------------------------------------------------------------


def test_bars(study: Study) -> None:
    data = bars.build(study.context, request_of("bars", splits=["all", "many"]))
    assert data is not None
    assert data.rows == ("BSCE", "NCL++", CONTROL, "other sizes", "large")  # the ensemble's row has the same trials
    assert [(panel.setting, panel.split) for panel in data.panels] == [
        (setting, split) for setting in (FEW, ALL) for split in ("all", "many")
    ]
    for panel in data.panels:
        metric = "class_mean" if panel.split == "all" else panel.split
        for predict in ("single", "ensemble"):
            values = by_seed(study, "large", f"test/{predict}_{metric}", panel.setting)
            found = panel.accuracy["large", predict]
            assert (found.mean, found.std) == (
                pytest.approx(statistics.mean(values)),
                pytest.approx(statistics.stdev(values)),
            )
    figure = render("bars", data)
    (start, end) = figure.axes[0].get_xlim()
    means = [s.mean for panel in data.panels for s in panel.accuracy.values()]
    assert start < min(means) and end > max(means)
    label = figure.get_supxlabel()
    assert (start <= 0) == ("starts at" not in label)
    assert len(figure.axes[0].texts) == len(data.panels[0].accuracy)


def test_an_axis_from_0_has_ticks_and_room_for_what_is_near_it() -> None:
    """Accuracies from 1.75 to 64: five ticks rather than 0 and 50, and no marker on the axis itself."""
    accuracy = {("CE", "single"): Summary(1.75, 0.95, 3), ("BSCE", "single"): Summary(64.0, 1.0, 3)}
    panels = tuple(bars.Panel("", split, accuracy) for split in ("many", "few"))
    axes = render("bars", bars.Bars(("CE", "BSCE"), ("single",), panels, ())).axes[0]
    start, end = axes.get_xlim()
    assert start < 0 and 0.01 < -start / end < 0.05 and end > 64
    shown = [tick for tick in axes.get_xticks() if start <= tick <= end]
    assert shown[0] == 0 and 3 <= len(shown) <= 6
    radius = axes.lines[0].get_markersize() / 72 / 2 * axes.figure.dpi
    left = axes.transData.transform((1.75, 0))[0]
    assert left - radius > axes.get_window_extent().x0


def test_a_named_ensemble_keeps_its_name_only_if_there_is_another(study: Study) -> None:
    assert titles(study.context)["NCL++ (ensemble)"] == "NCL++"
    data = bars.build(study.context, request_of("bars", rows=["NCL++ (ensemble)"], setting=FEW, predict=["ensemble"]))
    assert data is not None and data.rows == ("NCL++",)
    assert "ensemble" in render("bars", data).get_supxlabel()


def test_panels_without_data_are_left_out(hundred: Study, study: Study) -> None:
    wanted = ["many", "medium", "few"]
    data = bars.build(hundred.context, request_of("bars", splits=wanted))
    assert data is not None and [panel.split for panel in data.panels] == wanted
    one = curve.build(study.context, request_of("curve", rows=["waiting", "BSCE"], splits=wanted))
    assert one is not None and list(one.panels) == wanted
