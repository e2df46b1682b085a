"""Figures by class, of test images and of learned weights, against sums made by hand."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from analysis.figures import (
    FIGURES,
    class_accuracy,
    class_kl,
    classes,
    hardest_negative,
    loss_weights,
    predictions,
    shifted_test,
    tsne,
    virtual_examples,
)
from analysis.figures.classes import sort_classes
from analysis.read import finals
from analysis.statistics.seeds import Summary
from tests.analysis.figure_requests import ALL, BY_SIZE, CONTROL, COUNTS, FEW, NAMES, SEEDS, render, request_of
from tests.analysis.figures_data import Study

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
