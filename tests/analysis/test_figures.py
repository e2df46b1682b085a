"""The figures of the paper: their data against sums made by hand, their files, and what all kinds have in common."""

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
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from analysis.figures import (
    FIGURES,
    accuracy_cost,
    bars,
    class_accuracy,
    class_kl,
    classes,
    curve,
    forest,
    hardest_negative,
    learning_curves,
    loss_weights,
    predictions,
    shifted_test,
    style,
    tsne,
    virtual_examples,
)
from analysis.figures.classes import sort_classes
from analysis.figures.common import titles
from analysis.read import finals
from analysis.statistics.seeds import Summary
from ltsearch.store.records import FigureKind, FigureRequest
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
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Ten classes, two settings."""
    settings = {FEW: {"data_ratio": 0.2}, ALL: {"data_ratio": 1.0}}
    return fill(tmp_path_factory.mktemp("ten"), ROWS, COUNTS, names=NAMES, settings=settings, seeds=SEEDS)


@pytest.fixture(scope="module")
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
    assert FIGURES[kind].build(study.context, request_of(kind, rows=["waiting"])) is None


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
        std = cells.get("std")
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


# -- by class ----------------------------------------------------------------------------------------------------------


def test_classes_are_sorted_by_size_and_ties_keep_their_order() -> None:
    found = sort_classes(COUNTS, NAMES)
    assert list(found.labels) == BY_SIZE
    assert list(found.sizes) == sorted(COUNTS, reverse=True)
    assert found.names == tuple(NAMES[i] for i in BY_SIZE)
    assert found.spans() == {"many": (0, 3), "medium": (3, 6), "few": (6, 10)}
    assert sort_classes(COUNTS).names[0] == "class 1"


def test_absent_values_of_a_class() -> None:
    found = classes.class_line("row", [[1.0, None], [3.0, None], [8.0, None]], sort_classes([1, 2]))
    assert found.mean == (None, 4.0) and found.average() == 4.0
    assert found.std == (None, pytest.approx(statistics.stdev([1, 3, 8])))
    assert classes.class_line("row", [[1.0]], sort_classes([1])).std is None


def test_class_accuracy(study: Study) -> None:
    data = class_accuracy.build(study.context, request_of("class_accuracy"))  # of the first setting
    assert data is not None and list(data.classes.labels) == BY_SIZE
    assert data.left_out == ("other sizes",) and "other sizes" in class_accuracy.describe(data)
    for predict in ("single", "ensemble"):
        assert [line.row for line in data.panels[predict]] == ["BSCE", "NCL++", CONTROL, "large"]
        line = data.panels[predict][1]
        for at, label in enumerate(BY_SIZE):
            hits = []
            for seed in SEEDS:
                arrays = study.finals[FEW, "NCL++", seed]
                logits = arrays["logits"].astype(float)
                logits = logits.mean(0, keepdims=True) if predict == "ensemble" else logits
                right = [
                    int(expert[i].argmax()) == label
                    for i in np.flatnonzero(arrays["labels"] == label)
                    for expert in logits
                ]
                hits.append(100 * statistics.mean(right))
            assert line.mean[at] == pytest.approx(statistics.mean(hits))
            assert line.std is not None and line.std[at] == pytest.approx(statistics.stdev(hits))
    axes = render("class_accuracy", data).axes[-1]
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["b", "c"]


def test_many_classes_are_numbered(hundred: Study) -> None:
    data = class_accuracy.build(hundred.context, request_of("class_accuracy"))
    assert data is not None and len(data.panels["single"][0].mean) == 101
    axes = render("class_accuracy", data).axes[-1]
    assert axes.get_xticks().tolist() == [1, *range(10, 101, 10)] and "rank" in axes.get_xlabel()


def test_class_kl(study: Study) -> None:
    data = class_kl.build(study.context, request_of("class_kl", rows=["BSCE", "NCL++", "large"], setting=ALL))
    assert data is not None and list(data.classes.labels) == BY_SIZE and data.classes.names[0] == "b"
    assert [line.row for line in data.panels["kl_experts"]] == ["NCL++", "large"]  # one expert has no distance
    assert [line.row for line in data.panels["kl_copies"]] == ["BSCE", "NCL++", "large"]
    for name, line in (("kl_experts", data.panels["kl_experts"][0]), ("kl_copies", data.panels["kl_copies"][1])):
        kept = [study.finals[ALL, "NCL++", seed][name] for seed in SEEDS]
        for at, label in enumerate(BY_SIZE):
            values = [float(array[label]) for array in kept]
            assert line.mean[at] == pytest.approx(statistics.mean(values))
            assert line.std is not None and line.std[at] == pytest.approx(statistics.stdev(values))
        assert line.average() == pytest.approx(float(np.mean(kept)))
        assert f"{np.mean(kept):.3f}" in class_kl.describe(data)
    texts = [t.get_text() for axes in render("class_kl", data).axes for t in axes.get_legend().get_texts()]
    assert f"NCL++: mean {data.panels['kl_experts'][0].average():.3f}" in texts and len(texts) == 5


def test_one_row_has_both_distances_on_one_scale(study: Study) -> None:
    """Fig. 2(a)."""
    data = class_kl.build(study.context, request_of("class_kl", rows=["NCL++"], setting=ALL))
    assert data is not None and list(data.panels) == ["kl_experts", "kl_copies"]
    (axes,) = render("class_kl", data).axes
    texts = [text.get_text().partition(":")[0] for text in axes.get_legend().get_texts()]
    assert texts == ["between two experts", "between two copies of an image"]
    assert axes.get_ylabel() == "KL distance of NCL++ (nats)" and axes.get_ylim()[0] == 0


def test_one_expert_has_one_panel(study: Study) -> None:
    data = class_kl.build(study.context, request_of("class_kl", rows=["BSCE"]))
    assert data is not None and list(data.panels) == ["kl_copies"]


def test_virtual_examples(study: Study) -> None:
    data = virtual_examples.build(study.context, request_of("virtual_examples"))
    assert data is not None and list(data.rows) == ["INPUT", "BSCE"]  # rows without a distribution are left out
    images = {"many": [n for n in COUNTS if n > 100], "few": [n for n in COUNTS if n < 20]}
    for group, members in images.items():
        assert data.rows["INPUT"][group].mean == pytest.approx(statistics.mean(members))
    values = [study.records[FEW, "BSCE", seed].history[-1].metrics["train/virtual_few"] for seed in SEEDS]
    assert data.rows["BSCE"]["few"].mean == pytest.approx(statistics.mean(values))
    assert "12.5 in few-shot" in virtual_examples.describe(data)


def test_shifted_test(study: Study) -> None:
    data = shifted_test.build(study.context, request_of("shifted_test", rows=["BSCE", "NCL++"], setting=FEW))
    assert data is not None
    shown = [(line.row, line.predict, line.form) for line in data.lines]
    forms = ("plain", "compensated")
    assert shown == [
        (row, predict, form) for row in ("BSCE", "NCL++") for predict in ("single", "ensemble") for form in forms
    ]
    kept = [100 * study.finals[FEW, "NCL++", seed]["shifted_ensemble"][1, 3] for seed in SEEDS]
    found = data.lines[-1].accuracy[3]
    assert found is not None and found.mean == pytest.approx(statistics.mean(kept))
    printed = shifted_test.to_table(data, "t", "caption")
    assert [column.heading for column in printed.columns][1:3] == ["forward 50", "forward 25"]
    assert [row[0] for row in printed.rows[1:4]] == [
        "BSCE, prior compensated (single expert)", "NCL++ (single expert)", "NCL++, prior compensated (single expert)"
    ]  # fmt: skip
    empty = shifted_test.build(study.context, request_of("shifted_test", rows=["large"], setting=FEW))
    assert empty is None
    assert len(printed.rows) == 6  # BSCE has one expert: its ensemble is not printed again


# -- test images -------------------------------------------------------------------------------------------------------


def softmax_by_hand(logits: NDArray[Any]) -> list[float]:
    top = max(float(z) for z in logits)
    powers = [math.exp(float(z) - top) for z in logits]
    return [power / sum(powers) for power in powers]


def test_hardest_negative(study: Study) -> None:
    data = hardest_negative.build(study.context, request_of("hardest_negative"))
    assert data is not None and [row.row for row in data.rows] == ["BSCE", "NCL++", CONTROL, "other sizes"]
    assert len(data.edges) == 21 and data.edges[0] == 0 and data.edges[-1] == 1
    pooled = []
    for seed in SEEDS:
        arrays = study.finals[FEW, "NCL++", seed]
        for expert in arrays["logits"]:
            for logits, label in zip(expert, arrays["labels"], strict=True):
                pooled.append(max(p for c, p in enumerate(softmax_by_hand(logits)) if c != label))
    found = data.rows[1]
    assert (found.images, found.seeds) == (len(pooled), 2) and len(pooled) == 2 * 3 * 60
    assert found.mean == pytest.approx(statistics.mean(pooled))
    assert found.above == pytest.approx(sum(p > 0.4 for p in pooled) / len(pooled))
    for i, share in enumerate(found.shares):
        inside = sum(i <= p * 20 < i + 1 for p in pooled)
        assert share == pytest.approx(inside / len(pooled))
    assert sum(found.shares) == pytest.approx(1)
    assert hardest_negative.build(study.context, request_of("hardest_negative", rows=["large"])) is None


def test_scores_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10, 4)).astype(np.float16), rng.integers(0, 4, 10)
    whole = finals.Finals({"logits": logits[None], "labels": labels}).hardest_negative()
    monkeypatch.setattr(finals, "_CHUNK", 3)
    again = finals.Finals({"logits": logits[None], "labels": labels}).hardest_negative()
    assert whole is not None and again is not None and (again == whole).all()


def test_predictions(study: Study) -> None:
    data = predictions.build(study.context, request_of("predictions", seed=1))
    assert data is not None and (data.row, data.seed) == ("NCL++", 1)
    arrays = study.finals[FEW, "NCL++", 1]
    best, chosen, candidates = -1.0, -1, 0
    for i, label in enumerate(arrays["labels"]):
        p, q = (softmax_by_hand(arrays["logits"][expert, i]) for expert in (0, 1))
        if label in BY_SIZE[-3:] and p.index(max(p)) != q.index(max(q)):
            candidates += 1
            distance = sum((a - b) * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True)) / 2
            if distance > best:
                best, chosen = distance, i
    assert (data.image, data.candidates) == (chosen, candidates) and data.kl == pytest.approx(best)
    assert data.classes.labels[data.true] == arrays["labels"][chosen]
    assert data.positions == tuple(range(10))  # few classes: all
    for expert in (0, 1):
        p = softmax_by_hand(arrays["logits"][expert, chosen])
        assert data.probabilities[expert] == pytest.approx([p[label] for label in BY_SIZE])
        assert data.classes.labels[data.chosen[expert]] == p.index(max(p))
    first = predictions.build(study.context, request_of("predictions"))
    assert first is not None and first.seed == 0
    name = data.classes.names[data.true]
    assert name in predictions.describe(data) and name in render("predictions", data).axes[0].get_title().replace(
        "\\", ""
    )


def test_predictions_of_many_classes(hundred: Study) -> None:
    data = predictions.build(hundred.context, request_of("predictions"))
    assert data is not None and data.row == "BSCE"
    wanted = {data.true}
    for expert in (0, 1):
        logits = hundred.finals["", "BSCE", 0]["logits"][expert, data.image].astype(float)
        wanted |= {data.classes.labels.index(int(label)) for label in np.argsort(-logits, kind="stable")[:6]}
    assert data.positions == tuple(sorted(wanted)) and 7 <= len(wanted) <= 13


def test_predictions_need_two_experts_that_disagree(study: Study) -> None:
    for row in ("BSCE", "large"):  # one expert; not all logits
        assert predictions.build(study.context, request_of("predictions", rows=[row])) is None
    assert predictions.build(study.context, request_of("predictions", seed=9)) is None
    same = dict(study.finals[FEW, "NCL++", 0])
    same["logits"] = np.stack([same["logits"][0]] * 2)
    assert finals.Finals(same).disagreement() is None


def test_tsne(study: Study) -> None:
    asked = request_of("tsne", rows=["BSCE", "NCL++", "other sizes"], seed=1)
    data = tsne.build(study.context, asked)
    assert data is not None and [(shown.row, shown.seed) for shown in data.rows] == [("BSCE", 1), ("NCL++", 1)]
    assert data.shown == tuple(range(10)) and data.left_out == ("other sizes",)
    arrays = study.finals[FEW, "NCL++", 1]
    shown = data.rows[1]
    assert shown.images == tuple(arrays["feature_index"]) and len(shown.points) == 60
    labels = [BY_SIZE[at] for at in shown.positions]
    assert labels == [int(arrays["labels"][i]) for i in shown.images]
    features = arrays["features"][0].astype(float)
    assert shown.silhouette == pytest.approx(float(silhouette_score(features, labels)))
    # Classes that lie apart do so in the plane as well.
    assert float(silhouette_score(np.asarray(shown.points), labels)) > 0.1
    assert tsne.build(study.context, request_of("tsne", seed=9)) is None


def test_tsne_of_many_classes_shows_ten_from_large_to_small(hundred: Study) -> None:
    data = tsne.build(hundred.context, request_of("tsne", rows=["BSCE"]))
    assert data is not None
    assert data.shown == (0, 11, 22, 33, 44, 56, 67, 78, 89, 100)
    assert len(data.rows[0].points) == 60  # 6 images of each
    assert len(render("tsne", data).legends[0].get_texts()) == 10


# -- loss weights ------------------------------------------------------------------------------------------------------


def test_loss_weights(study: Study) -> None:
    data = loss_weights.build(study.context, request_of("loss_weights"))
    assert data is not None and list(data.panels) == ["lambda_intra", "lambda_inter"]
    fixed, learned = data.panels["lambda_intra"]
    assert (fixed.row, fixed.learned, learned.row, learned.learned) == ("NCL++", False, CONTROL, True)
    assert [(epoch, s.mean) for epoch, s in fixed.points] == [(e, pytest.approx(0.6)) for e in (1, 2, 3, 4)]
    for weight, line in zip(data.panels, (learned, data.panels["lambda_inter"][1]), strict=True):
        for epoch, summary in line.points:
            name = "control: learnable, K experts (ensemble)"
            values = [study.records[FEW, name, s].history[epoch - 1].metrics[f"train/{weight}"] for s in SEEDS]
            assert summary.mean == pytest.approx(statistics.mean(values))
            assert summary.std == pytest.approx(statistics.stdev(values))
    axes = render("loss_weights", data).axes[0]
    assert [line.get_linestyle() for line in axes.lines] == ["--", *["-"] * 3]  # fixed; two seeds and their mean
    assert loss_weights.build(study.context, request_of("loss_weights", rows=["BSCE"])) is None


def test_seeds_that_end_apart_have_no_mean() -> None:
    """Weights of three runs, of which two end at 1 and one at 0: nothing is drawn at their mean."""
    ends = {0: 0.99, 1: 0.01, 2: 0.98}
    by_seed = {seed: {1: 0.5, 2: (0.5 + end) / 2, 3: end} for seed, end in ends.items()}
    near = {seed: {epoch: 0.5 + 0.02 * seed * epoch for epoch in (1, 2, 3)} for seed in ends}
    made = []
    for name, seeds in (("apart", by_seed), ("near", near)):
        points = ((e, statistics.mean(v[e] for v in seeds.values()), [v[e] for v in seeds.values()]) for e in (1, 2, 3))
        summaries = tuple((e, Summary(mean, statistics.stdev(values), 3)) for e, mean, values in points)
        made.append(loss_weights.Line(name, True, seeds, summaries))
    data = loss_weights.LossWeights({"lambda_intra": tuple(made)}, ())
    figure = render("loss_weights", data)
    bold = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert [[*line.get_ydata()] for line in bold[:-1]] == [[*values.values()] for values in by_seed.values()]
    assert [*bold[-1].get_ydata()] == pytest.approx([0.52, 0.54, 0.56])  # the mean of those that agree
    assert len(figure.axes[0].lines) == 3 + 3 + 1
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["apart: learned, every seed", "near: learned"]
    header, rows = FIGURES["loss_weights"].table(data)
    last = [row for row in rows if row[header.index("row")] == "apart" and row[header.index("epoch")] == 3]
    assert [row[header.index("value")] for row in last] == [*ends.values()]
    assert [row[header.index("mean")] for row in last] == pytest.approx([0.66] * 3)
    assert "to 0.990, 0.010 and 0.980 in epoch 3 (by seed, which end apart)" in loss_weights.describe(data)


# -- style -------------------------------------------------------------------------------------------------------------


def test_methods_have_their_colour_in_every_figure() -> None:
    plan = ["CE", "BIL", "other", "another", "NCL++", "NCL++ (ensemble)", "third"]
    assert style.colours(["CE"]) == {"CE": style.GREY} == style.colours(["CE"], plan)
    assert style.colours(["NCL++ (ensemble)"])["NCL++ (ensemble)"] == style.VERMILION
    assert style.colours(["BSCE"])["BSCE"] == style.colours(["BIL"])["BIL"] == style.BLUE
    whole = style.colours(plan, plan)
    for name in plan[:5]:
        assert style.colours(["third", name], plan)[name] == whole[name]
    assert len(set(style.colours(["BSCE", "NCL++", "a", "b", "c", "d", "e", "f"]).values())) == 8
    many = style.looks([f"row {i}" for i in range(10)])
    assert len({look.marker for look in many.values()}) == len({look.colour for look in many.values()}) == 10
    more = style.looks([f"row {i}" for i in range(30)])
    assert len({(look.colour, str(look.line)) for look in more.values()}) == 30


def test_a_method_looks_the_same_in_every_study() -> None:
    everything = style.looks(style.METHODS)
    assert len({(look.colour, look.marker) for look in everything.values()}) == len(style.METHODS)
    for study in (["CE", "a", "RIDE"], ["b", "RIDE", "c", "BSCE", "CE"], ["RIDE"]):
        found = style.looks(study, [*study, "d", "e"])
        assert all(found[name] == everything[name] for name in study if name in style.METHODS)
        assert len({(look.colour, look.marker, str(look.line)) for look in found.values()}) == len(study)
    assert style.looks(["NCL++ (ensemble)"])["NCL++ (ensemble)"] == everything["NCL++"]


def test_save_drops_a_picture_s_suffix_only(tmp_path: Path) -> None:
    for name in ("a.png", "b.svg", "beta_0.3"):
        style.save(style.figure(1, 1), tmp_path / name)
    stems = ("a", "b", "beta_0.3")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{s}.{kind}" for s in stems for kind in ("png", "svg"))


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
