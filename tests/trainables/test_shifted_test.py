"""Shifted test distributions against the protocol written out as loops in Python numbers."""

from __future__ import annotations

import math

import pytest
import torch

from ltsearch.store import records
from trainables.shifted_test import DISTRIBUTIONS, accuracies, judge, sizes


def test_the_analysis_calls_them_alike() -> None:
    assert records.SHIFTED_TESTS == DISTRIBUTIONS


def test_sizes_of_the_published_protocol() -> None:
    """CIFAR-100 with 100 test images a class: totals worked out from LADE's formula by hand."""
    labels = torch.arange(100).repeat(100)
    found = sizes(labels, torch.arange(500, 0, -5))
    totals = dict(zip(DISTRIBUTIONS, found.sum(1).tolist(), strict=True))
    assert [totals[f"forward {f}"] for f in (50, 25, 10, 5, 2)] == [2486, 2956, 3876, 4932, 7166]
    assert [totals[f"backward {f}"] for f in (50, 25, 10, 5, 2)] == [2486, 2956, 3876, 4932, 7166]
    assert totals["uniform"] == 10_000
    assert found[0, 0] == 100 and found[0, -1] == 2 and found[-1, 0] == 2


def test_against_loops() -> None:
    g = torch.Generator().manual_seed(0)
    classes, experts = 6, 2
    labels = torch.randint(0, classes, (300,), generator=g)
    logits = torch.randn(experts, 300, classes, generator=g) + 1.5 * torch.eye(classes)[labels]
    counts = torch.tensor([7, 300, 40, 40, 900, 2])
    rank = {4: 0, 1: 1, 2: 2, 3: 3, 0: 4, 5: 5}  # of equal classes the first is the larger one
    most = min(labels.tolist().count(c) for c in range(classes))
    stay = sizes(labels, counts)
    found = accuracies(judge(logits, labels, stay), labels, stay)
    for s, name in enumerate(DISTRIBUTIONS):
        factor = 1.0 if name == "uniform" else float(name.split()[1])
        keep = {}
        for c in range(classes):
            r = classes - 1 - rank[c] if name.startswith("backward") else rank[c]
            keep[c] = int(most * (1 / factor) ** (r / (classes - 1)) + 1e-9)
        total = sum(keep.values())
        if not min(keep.values()):
            assert factor == 50 and all(torch.isnan(found[setting][:, s]).all() for setting in found)
            continue
        for setting, predictions in (("single", [*logits.double()]), ("ensemble", [logits.double().mean(0)])):
            for form in (0, 1):
                each = []
                for z in predictions:
                    seen, hits = dict.fromkeys(range(classes), 0), 0
                    for i, label in enumerate(labels.tolist()):
                        if seen[label] == keep[label]:
                            continue
                        seen[label] += 1
                        scores = [float(z[i, c]) + (form and math.log(keep[c] / total)) for c in range(classes)]
                        hits += scores.index(max(scores)) == label
                    each.append(hits / total)
                assert float(found[setting][form, s]) == pytest.approx(sum(each) / len(each), abs=1e-12)
    uniform = DISTRIBUTIONS.index("uniform")
    assert torch.equal(found["single"][0, uniform], found["single"][1, uniform])


def test_a_test_set_without_images_of_a_class() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    stay = sizes(labels, torch.tensor([5, 3, 1]))
    found = accuracies(judge(torch.randn(1, 4, 3), labels, stay), labels, stay)
    assert torch.isnan(found["single"]).all()


def test_one_class_is_not_shifted() -> None:
    assert sizes(torch.zeros(7, dtype=torch.long), torch.tensor([3])).eq(7).all()
