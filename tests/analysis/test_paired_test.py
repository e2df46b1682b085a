"""McNemar's test against its definition, and on predictions of a real store's runs."""

from __future__ import annotations

from math import comb
from typing import Any

import numpy as np
import pytest

from analysis.tables.paired_images import MOST_CLASSES, Comparison, Result, build, mcnemar, predictions, to_table
from ltsearch.records import PairedTest
from tests.analysis.figures_data import Row, Study, fill


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 0), (10, 4), (7, 7), (1, 30)])
def test_the_exact_test_by_its_definition(a: int, b: int) -> None:
    """Twice the probability that a fair coin falls at least as unevenly, at most 1."""
    n = a + b
    tail = sum(comb(n, i) for i in range(min(a, b) + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail) if n else 1.0)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_predictions() -> None:
    logits = np.array([[[2, 1, 0], [0, 1, 0.5]], [[0, 1.5, 5], [0, 0, 9]]], np.float16)  # [K=2, N=2, C=3]
    assert predictions({"logits": logits}, "single").tolist() == [0, 1]
    assert predictions({"logits": logits}, "ensemble").tolist() == [2, 2]
    top = {"top5_classes": np.array([[[4, 1], [3, 0]]])}
    assert predictions(top, "single").tolist() == [4, 3] and predictions(top, "ensemble") is None


def test_many_classes_are_cut_to_what_differs_and_the_data_is_whole() -> None:
    classes = tuple(
        Comparison(f"c{i}", 10, 50.0, 40.0, 3, 2, 1.0, 0.01 if i == 7 else 1.0) for i in range(MOST_CLASSES + 1)
    )
    result = Result("A", "B", 0, Comparison("all", 210, 50.0, 40.0, 63, 42, 0.05), classes)
    printed, data = to_table(result, "t"), to_table(result, "t", every=True)
    assert [row[0] for row in printed.rows] == ["all", "c7"] and "1 of 21 classes differ" in printed.notes[0]
    assert len(data.rows) == 22


# -- a real store's runs -----------------------------------------------------------------------------------------------

COUNTS = [60, 30, 10]
NAMES = ["large", "middle", "small"]
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Two rows with kept logits, one with the top five only, one without predictions, one that has not run."""
    rows = [
        Row("BSCE", strength=1.0),
        Row("NCL++", experts=2, strength=2.5),
        Row("NCL++ (ensemble)", experts=2, same_as="NCL++"),
        Row("top five", strength=2.0, keep="top5"),
        Row("nothing kept", keep=None),
        Row("waiting", runs=False),
    ]
    folder = tmp_path_factory.mktemp("paired")
    return fill(
        folder, rows, COUNTS, names=NAMES, settings={"A": {}, "B": {"data_ratio": 0.5}}, seeds=SEEDS, per_class=40
    )


def right_by_hand(study: Study, row: str, seed: int, setting: str = "A", ensemble: bool = False) -> list[list[bool]]:
    """By class and image, is the image right? Image by image, without arrays."""
    arrays = study.finals[setting, row, seed]
    right: list[list[bool]] = [[] for _ in COUNTS]
    for i, label in enumerate(arrays["labels"].tolist()):
        experts = [[float(z) for z in expert[i]] for expert in arrays["logits"]]
        scores = [sum(z) for z in zip(*experts, strict=True)] if ensemble else experts[0]
        right[label].append(scores.index(max(scores)) == label)
    return right


def p_by_hand(a: list[bool], b: list[bool]) -> tuple[int, int, float]:
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n
    return only_a, only_b, min(1.0, 2 * tail)


@pytest.mark.parametrize(
    ("row", "ensemble", "setting", "seed"),
    [("NCL++", False, None, None), ("NCL++", False, "B", 1), ("NCL++ (ensemble)", True, "A", 1)],
)
def test_from_runs(study: Study, row: str, ensemble: bool, setting: str | None, seed: int | None) -> None:
    """Against counts image by image; without a seed the first, without a setting the first."""
    result = build(study.context, PairedTest(row=row, reference="BSCE", setting=setting, seed=seed))
    at, used = setting or "A", seed or 0
    assert result is not None and (result.row, result.reference, result.seed) == (f"{row} ({at})", f"BSCE ({at})", used)
    ours = right_by_hand(study, "NCL++", used, at, ensemble)
    theirs = right_by_hand(study, "BSCE", used, at)
    assert [c.name for c in result.classes] == NAMES
    p = []
    for found, a, b in zip(result.classes, ours, theirs, strict=True):
        only_a, only_b, by_hand = p_by_hand(a, b)
        assert (found.images, found.only_row, found.only_reference) == (40, only_a, only_b)
        assert found.accuracy == pytest.approx(100 * sum(a) / 40)
        assert found.reference_accuracy == pytest.approx(100 * sum(b) / 40)
        assert found.p == pytest.approx(by_hand)
        p.append(by_hand)
    corrected, largest = [0.0] * 3, 0.0
    for rank, i in enumerate(sorted(range(3), key=lambda i: p[i])):  # Holm: 3, 2 and 1 times, never falling
        largest = max(largest, min(1.0, (3 - rank) * p[i]))
        corrected[i] = largest
    assert [c.p_holm for c in result.classes] == pytest.approx(corrected)
    only_a, only_b, by_hand = p_by_hand(sum(ours, []), sum(theirs, []))
    whole = result.overall
    assert (whole.images, whole.only_row, whole.only_reference) == (120, only_a, only_b)
    assert whole.p == pytest.approx(by_hand) and whole.p < 0.05 and whole.p_holm is None


def test_top_fives_are_enough_for_a_single_expert(study: Study) -> None:
    result = build(study.context, PairedTest(row="top five", reference="BSCE", setting="A", seed=0))
    ours, theirs = right_by_hand(study, "top five", 0), right_by_hand(study, "BSCE", 0)
    assert result is not None
    found = result.overall
    assert (found.only_row, found.only_reference, found.p) == (*p_by_hand(sum(ours, []), sum(theirs, []))[:2], found.p)


@pytest.mark.parametrize(
    "over", [{"row": "waiting"}, {"row": "nothing kept"}, {"seed": 9}, {"row": "?"}, {"setting": "C"}]
)
def test_nothing_to_compare(study: Study, over: dict[str, Any]) -> None:
    asked = PairedTest.model_validate({"row": "NCL++", "reference": "BSCE", **over})
    assert build(study.context, asked) is None
