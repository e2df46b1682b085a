"""mixup and CutMix: who is mixed with whom, how much, and what that gives."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from trainables import mixing
from trainables.config import TrialConfig


def config(mix: str, alpha: float = 1.0) -> TrialConfig:
    return TrialConfig.model_validate({"augmentation": {"mix": mix, "mix_alpha": alpha}})


def test_partners_are_a_permutation_and_coefficients_are_beta() -> None:
    c, image, zero = config("mixup", 0.3), torch.arange(2000), torch.zeros(2000, dtype=torch.int64)
    mix = mixing.draw(c, 0, image, zero)
    assert torch.equal(mix.partner.sort().values, image)
    assert stats.kstest(mix.coefficient.numpy(), stats.beta(0.3, 0.3).cdf).pvalue > 1e-3
    again = mixing.draw(c, 1, image, zero)
    assert not torch.equal(again.partner, mix.partner)
    # Two occurrences of one image in a batch have draws of their own.
    twice = mixing.draw(c, 0, torch.tensor([7, 7]), torch.tensor([0, 1]))
    assert twice.coefficient[0] != twice.coefficient[1]


def test_mixup_is_the_weighted_mean() -> None:
    inputs, partners = torch.rand(2, 3, 3, 4, 4, dtype=torch.float64), torch.rand(2, 3, 3, 4, 4, dtype=torch.float64)
    share = torch.tensor([0.75, 0.5, 1.0], dtype=torch.float64)
    mixed, weight = mixing.apply("mixup", inputs, partners, mixing.Mix(torch.arange(3), share, torch.rand(3, 2)))
    for t in range(2):
        for b in range(3):
            torch.testing.assert_close(mixed[t, b], share[b] * inputs[t, b] + (1 - share[b]) * partners[t, b])
    assert torch.equal(weight, share)


def test_cutmix_takes_a_box_of_the_partner_and_weighs_by_area() -> None:
    """Against a literal loop over pixels."""
    size, share = 12, torch.tensor([0.0, 0.36, 0.75, 1.0], dtype=torch.float64)
    centre = torch.tensor([[0.5, 0.5], [0.0, 0.99], [0.3, 0.6], [0.5, 0.5]])
    zeros, ones = torch.zeros(1, 4, 3, size, size), torch.ones(1, 4, 3, size, size)
    mixed, weight = mixing.apply("cutmix", zeros, ones, mixing.Mix(torch.arange(4), share, centre))
    for b in range(4):
        half = math.floor(math.sqrt(1 - share[b]) * size) // 2
        y, x = math.floor(centre[b, 0] * size), math.floor(centre[b, 1] * size)
        want = torch.tensor(
            [[float(y - half <= i < y + half and x - half <= j < x + half) for j in range(size)] for i in range(size)]
        )
        assert torch.equal(mixed[0, b, 0], want) and torch.equal(mixed[0, b, 2], want)
        assert float(weight[b]) == pytest.approx(1 - float(want.mean()))
