"""Metrics against plain loops over images."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from trainables.metrics import (
    class_summaries,
    confidence,
    evaluation_metrics,
    expected_calibration_error,
    judge,
    mean_pairwise_kl,
    shot_groups,
)


@pytest.fixture
def case() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(3, 200, 12, generator=g) * 2,
        torch.randint(0, 11, (200,), generator=g),
        torch.tensor([500, 101, 100, 60, 20, 19, 5, 1, 30, 30, 200, 7]),
    )


def test_against_loops(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    logits, labels, counts = case
    scalars, per_class = evaluation_metrics(judge(logits, labels), labels, counts)
    z, y, n = logits.double().numpy(), labels.numpy(), counts.numpy()

    def top(row: np.ndarray, label: int, k: int) -> bool:
        return label in np.argsort(-row)[:k]

    def accuracy(z: np.ndarray, keep: np.ndarray, k: int = 1) -> float:
        return float(np.mean([top(z[i], y[i], k) for i in range(len(y)) if keep[i]]))

    every = np.ones(len(y), bool)
    singles = [accuracy(z[k], every) for k in range(3)]
    assert scalars["single_top1"] == pytest.approx(np.mean(singles))
    assert scalars["single_top1_max"] == pytest.approx(max(singles))
    assert scalars["expert1_top1"] == pytest.approx(singles[1])
    top5 = [accuracy(z[k], every, 5) for k in range(3)]
    assert len({*top5}) == 3  # or mean and largest could not be told apart
    assert scalars["single_top5"] == pytest.approx(np.mean(top5))
    assert scalars["single_top5_max"] == pytest.approx(max(top5))
    assert scalars["ensemble_top1"] == pytest.approx(accuracy(z.mean(0), every))
    assert scalars["ensemble_top5"] == pytest.approx(accuracy(z.mean(0), every, 5))
    groups = {"many": n[y] > 100, "medium": (n[y] >= 20) & (n[y] <= 100), "few": n[y] < 20}
    for group, keep in groups.items():
        members = [j for j in range(12) if (keep & (y == j)).any()]
        by_class = [[accuracy(each, y == j) for j in members] for each in (*z, z.mean(0))]
        assert scalars[f"single_{group}"] == pytest.approx(np.mean(by_class[:3]))
        assert scalars[f"ensemble_{group}"] == pytest.approx(np.mean(by_class[3]))
    for j in range(12):
        want = accuracy(z.mean(0), y == j) if (y == j).any() else math.nan
        assert per_class["ensemble"][j].item() == pytest.approx(want, nan_ok=True)


def test_a_group_without_classes_is_absent() -> None:
    assert set(shot_groups(torch.tensor([5000, 50]))) == {"many", "medium"}
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    scalars, _ = evaluation_metrics(judge(torch.randn(1, 6, 2), labels), labels, torch.tensor([5000, 50]))
    assert "single_few" not in scalars and "single_many" in scalars
    assert "kl_experts" not in scalars  # one expert has no distance to another


def test_kl_between_experts(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    logits = case[0][:, :20].double()
    got = mean_pairwise_kl(logits)
    p = logits.softmax(-1).numpy()
    for i in range(20):
        pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
        want = np.mean([np.sum(p[a, i] * np.log(p[a, i] / p[b, i])) for a, b in pairs])
        assert got[i].item() == pytest.approx(want, rel=1e-4)


def test_calibration_error_against_loops(case: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> None:
    logits, labels = case[0][0], case[1]
    p = logits.double().softmax(-1).numpy()
    want = 0.0
    for b in range(15):
        inside = [i for i in range(200) if b / 15 < p[i].max() <= (b + 1) / 15]
        if inside:
            right = np.mean([p[i].argmax() == labels[i].item() for i in inside])
            want += len(inside) / 200 * abs(right - np.mean([p[i].max() for i in inside]))
    assert expected_calibration_error(*confidence(logits, labels)) == pytest.approx(want, abs=1e-6)


def test_perfect_and_hopeless() -> None:
    labels = torch.arange(10)
    scalars, per_class = evaluation_metrics(judge(torch.eye(10)[None] * 50, labels), labels, torch.full((10,), 5))
    assert scalars["ensemble_top1"] == 1.0 and scalars["ensemble_ece"] == pytest.approx(0, abs=1e-6)
    assert per_class["single"].tolist() == [1.0] * 10
    scalars, _ = evaluation_metrics(judge(-torch.eye(10)[None] * 50, labels), labels, torch.full((10,), 5))
    assert scalars["ensemble_top1"] == 0.0


def test_classes_count_alike_however_many_images_they_have(
    case: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    logits, labels, counts = case
    scalars, _ = evaluation_metrics(judge(logits, labels), labels, counts)
    predicted = [*logits.argmax(-1).numpy(), logits.mean(0).argmax(-1).numpy()]
    y = labels.numpy()
    every = [[float(np.mean(p[y == j] == j)) for j in range(12) if (y == j).any()] for p in predicted]
    for setting, found in (("single", every[:3]), ("ensemble", every[3:])):
        assert scalars[f"{setting}_class_mean"] == pytest.approx(np.mean([np.mean(a) for a in found]))
        assert scalars[f"{setting}_worst_class"] == pytest.approx(np.mean([min(a) for a in found]))
        harmonic = [statistics.harmonic_mean(a) for a in found]
        geometric = [math.prod(a) ** (1 / len(a)) for a in found]
        assert scalars[f"{setting}_class_harmonic_mean"] == pytest.approx(np.mean(harmonic))
        assert scalars[f"{setting}_class_geometric_mean"] == pytest.approx(np.mean(geometric))
    assert scalars["single_class_mean"] != pytest.approx(
        scalars["single_top1"]
    )  # the classes have different numbers of images
    average = predicted[3] == y
    alone = [p == y for p in predicted[:3]]
    assert scalars["expert_right_average_wrong"] == pytest.approx(np.mean([np.sum(a & ~average) for a in alone]))
    assert scalars["average_right_expert_wrong"] == pytest.approx(np.mean([np.sum(~a & average) for a in alone]))


def test_means_of_classes_that_are_never_and_always_recognised() -> None:
    assert class_summaries(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64)) == {
        "class_mean": 0.5,
        "class_harmonic_mean": 0.0,
        "class_geometric_mean": 0.0,
        "worst_class": 0.0,
    }
    found = class_summaries(torch.tensor([[0.2, 0.8], [1.0, 1.0]], dtype=torch.float64))
    assert found == pytest.approx(
        {"class_mean": 0.75, "class_harmonic_mean": 0.66, "class_geometric_mean": 0.7, "worst_class": 0.6}
    )
