"""McNemar's test against its definition, and on predictions of a real store's runs."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from analysis.paired_test import MOST_CLASSES, Comparison, Result, mcnemar, predictions, to_table


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
