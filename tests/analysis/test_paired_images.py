"""McNemar's test against its definition, and on predictions of a real store's runs."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest

from analysis.read.finals import Finals
from analysis.statistics.images import mcnemar
from analysis.tables.paired_images import MOST_CLASSES, Comparison, Result, build, to_table
from ltsearch.store.records import PairedTest
from tests.analysis.figures_data import Row, Study, fill


@pytest.mark.parametrize(("a", "b"), [(0, 0), (3, 0), (10, 4), (7, 7), (1, 30)])
def test_one_seed_is_the_exact_test_by_its_definition(a: int, b: int) -> None:
    """Twice the probability that a fair coin falls at least as unevenly, at most 1."""
    n = a + b
    tail = sum(comb(n, i) for i in range(min(a, b) + 1)) / 2**n
    ours = np.array([[True] * a + [False] * b + [True, False]])
    theirs = np.array([[False] * a + [True] * b + [True, False]])
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail) if n else 1.0)
    assert mcnemar(ours, theirs) == mcnemar(theirs, ours)


def p_of_all_signs(d: list[int]) -> float:
    """The share of all 2^N ways to change sides, image by image, that give at least as large a sum."""
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in product((1, -1), repeat=len(d))]
    return sum(s >= abs(sum(d)) for s in sums) / len(sums)


@pytest.mark.parametrize("seed", range(8))
def test_several_seeds_by_all_ways_to_change_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.random((3, 11)) < 0.7, rng.random((3, 11)) < 0.4
    d = [sum(int(x) - int(y) for x, y in zip(a[:, i], b[:, i], strict=True)) for i in range(11)]
    assert mcnemar(a, b) == pytest.approx(p_of_all_signs(d), rel=1e-9)


def test_the_same_seed_again_says_nothing_new() -> None:
    """Taken as independent, ten copies of one seed would make a small p of any difference."""
    rng = np.random.default_rng(0)
    a, b = rng.random((1, 200)) < 0.58, rng.random((1, 200)) < 0.5
    once = mcnemar(a, b)
    assert 0.05 < once < 0.9 and mcnemar(np.repeat(a, 10, 0), np.repeat(b, 10, 0)) == pytest.approx(once)


def test_predictions() -> None:
    logits = np.array([[[2, 1, 0], [0, 1, 0.5]], [[0, 1.5, 5], [0, 0, 9]]], np.float16)  # [K=2, N=2, C=3]
    found = Finals({"logits": logits})
    assert [found.predicted(p).tolist() for p in ("single", "ensemble")] == [[0, 1], [2, 2]]  # type: ignore[union-attr]
    top = Finals({"top5_classes": np.array([[[4, 1], [3, 0]]])})
    single = top.predicted("single")
    assert single is not None and single.tolist() == [4, 3] and top.predicted("ensemble") is None


def test_many_classes_are_cut_to_what_differs_and_the_data_is_whole() -> None:
    classes = tuple(
        Comparison(f"c{i}", 10, 50.0, 40.0, 3, 2, 1.0, 0.01 if i == 7 else 1.0) for i in range(MOST_CLASSES + 1)
    )
    result = Result("A", "B", (0,), Comparison("all", 210, 50.0, 40.0, 63, 42, 0.05), classes)
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


def p_by_hand(a: list[list[bool]], b: list[list[bool]]) -> tuple[int, int, float]:
    """Of lists by seed and image: counts, and the p-value by the number of ways to each sum, image by image."""
    pairs = [(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True)]
    d = [sum(a[s][i] - b[s][i] for s in range(len(a))) for i in range(len(a[0]))]
    ways = Counter({0: 1})
    for x in filter(None, d):
        ways = Counter({t: ways[t - x] + ways[t + x] for t in {u + v for u in ways for v in (x, -x)}})
    tail = sum(n for t, n in ways.items() if abs(t) >= abs(sum(d)))
    return sum(x and not y for x, y in pairs), sum(y and not x for x, y in pairs), tail / sum(ways.values())


@pytest.mark.parametrize(
    ("row", "ensemble", "setting", "seed"),
    [("NCL++", False, None, None), ("NCL++", False, "B", 1), ("NCL++ (ensemble)", True, "A", None)],
)
def test_from_runs(study: Study, row: str, ensemble: bool, setting: str | None, seed: int | None) -> None:
    """Against counts image by image; without a seed all of them, without a setting the first."""
    result = build(study.context, PairedTest(row=row, reference="BSCE", setting=setting, seed=seed))
    at, used = setting or "A", SEEDS if seed is None else (seed,)
    assert result is not None
    assert (result.row, result.reference, result.seeds) == (f"{row} ({at})", f"BSCE ({at})", used)
    ours = [right_by_hand(study, "NCL++", s, at, ensemble) for s in used]
    theirs = [right_by_hand(study, "BSCE", s, at) for s in used]
    assert [c.name for c in result.classes] == NAMES
    p = []
    for j, found in enumerate(result.classes):
        a, b = [right[j] for right in ours], [right[j] for right in theirs]
        only_a, only_b, by_hand = p_by_hand(a, b)
        assert (found.images, found.only_row, found.only_reference) == (40, only_a, only_b)
        assert found.accuracy == pytest.approx(100 * sum(map(sum, a)) / (40 * len(used)))
        assert found.reference_accuracy == pytest.approx(100 * sum(map(sum, b)) / (40 * len(used)))
        assert found.p == pytest.approx(by_hand)
        p.append(by_hand)
    corrected, largest = [0.0] * 3, 0.0
    for rank, i in enumerate(sorted(range(3), key=lambda i: p[i])):  # Holm: 3, 2 and 1 times, never falling
        largest = max(largest, min(1.0, (3 - rank) * p[i]))
        corrected[i] = largest
    assert [c.p_holm for c in result.classes] == pytest.approx(corrected)
    only_a, only_b, by_hand = p_by_hand([sum(r, []) for r in ours], [sum(r, []) for r in theirs])
    whole = result.overall
    assert (whole.images, whole.only_row, whole.only_reference) == (120, only_a, only_b)
    assert whole.p == pytest.approx(by_hand) and whole.p < 0.05 and whole.p_holm is None


def test_top_fives_are_enough_for_a_single_expert(study: Study) -> None:
    result = build(study.context, PairedTest(row="top five", reference="BSCE", setting="A", seed=0))
    ours, theirs = (sum(right_by_hand(study, row, 0), []) for row in ("top five", "BSCE"))
    assert result is not None
    found = result.overall
    assert (found.only_row, found.only_reference, found.p) == pytest.approx(p_by_hand([ours], [theirs]))


@pytest.mark.parametrize(
    "over", [{"row": "waiting"}, {"row": "nothing kept"}, {"seed": 9}, {"row": "?"}, {"setting": "C"}]
)
def test_nothing_to_compare(study: Study, over: dict[str, Any]) -> None:
    asked = PairedTest.model_validate({"row": "NCL++", "reference": "BSCE", **over})
    assert build(study.context, asked) is None
