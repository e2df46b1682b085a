"""Counter-based draws: fixed values, independence of grouping, and statistics."""

from __future__ import annotations

import torch
from scipy import stats

from trainables import draws


def reference(*parts: int) -> int:
    """The hash once more, in Python's unbounded integers."""
    mask = 0xFFFFFFFF

    def mix(x: int) -> int:
        x ^= x >> 16
        x = x * 0x85EBCA6B & mask
        x ^= x >> 13
        x = x * 0xC2B2AE35 & mask
        return x ^ (x >> 16)

    h = 0x9E3779B9
    for part in parts:
        h = mix((mix(part & mask) + h * 0x9E3779B1 + 0x7F4A7C15) & mask)
    return h


def test_hash_equals_unbounded_integer_arithmetic() -> None:
    for parts in [(0,), (1, 2, 3), (2**31 - 1, 5, 70000, 3), (2**32 - 1, 2**32 - 1)]:
        assert draws.integer(*parts) == reference(*parts)
    images = torch.tensor([0, 5, 2**31])
    assert draws.hash32(7, images, 2).tolist() == [reference(7, i, 2) for i in images.tolist()]


def test_a_draw_does_not_depend_on_its_batch() -> None:
    images = torch.arange(100)
    whole = draws.uniforms((3, 2, images), 7)
    assert torch.equal(draws.uniforms((3, 2, images[40:60]), 7), whole[40:60])
    assert torch.equal(draws.uniforms((3, 2, images), 3), whole[:, :3])


def test_uniform_on_the_unit_interval() -> None:
    u = draws.uniforms((1, 2, torch.arange(20_000)), 3)
    assert u.min() >= 0 and u.max() < 1
    for column in u.T:
        assert stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(u.T)
    assert (correlation - torch.eye(3)).abs().max() < 0.03
    neighbours = torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]
    assert abs(neighbours) < 0.03


def test_seeds_epochs_and_streams_differ() -> None:
    images = torch.arange(1000)
    seen = [draws.uniform(s, stream, e, images) for s in (0, 1) for stream in (1, 2) for e in (0, 1)]
    for i, a in enumerate(seen):
        for b in seen[i + 1 :]:
            assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.12


def test_permutation() -> None:
    p = draws.permutation(0, 1, 5, n=1000)
    assert torch.equal(p.sort().values, torch.arange(1000))
    assert not torch.equal(p, draws.permutation(0, 1, 6, n=1000))
