"""``training.compile``: what a step does is one graph, whatever the method, and computes the same when it is compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.trainables.test_no_waiting import ALONE, POLICIES, of_method
from tests.trainables.test_training import config
from trainables import augmentation
from trainables.augmentation.options import AugmentationConfig
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.run_options import RunOptions
from trainables.training import _Trial, train


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_augmentation_is_one_graph(options: dict[str, Any]) -> None:
    a = AugmentationConfig(**options)
    policy = augmentation.build(a.policy, a, size=32)
    side = 44 if a.crop == "random_resized_crop" else 32
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 3, side, side), generator=generator).byte()
    u = torch.rand(16, policy.draws, generator=generator)
    whole = torch.compile(policy, fullgraph=True, backend="eager")  # raises where the graph breaks
    assert torch.equal(whole(images, u), policy(images, u))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "ncl_pp" else pytest.mark.slow) for name in ALONE]
)
def test_forward_pass_losses_and_gradients_are_one_graph(name: str, digits: Any) -> None:
    whole, plain = (
        losses_of(of_method(name), digits, backend="aot_eager", fullgraph=True),
        losses_of(of_method(name), digits),
    )
    assert whole == pytest.approx(plain, rel=1e-4)


def losses_of(c: TrialConfig, digits: Any, **how: Any) -> dict[str, float]:
    """Of a second step, compiled or, without saying how, as it is."""
    trial = _Trial(c, split(c.data, digits), RunOptions())
    assert trial.step is not None
    trial.network.train()
    trial.method.train()
    if how:
        trial.step.compile(**how)
    for step, batch in trial.feed.batches(trial.feed.steps(0)[:2], 0):
        losses = trial._forward_backward(step, batch)
        trial._optimizer_step()
    return {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.slow
def test_a_compiled_trial_computes_the_same(digits: Any) -> None:
    """In float64, where rounding does not grow into another training."""
    found = []
    for compiled in (True, False):
        c = config(training={"epochs": 2, "compile": compiled, "precision": "fp64"})
        found.append([report.metrics for report in train(c, split(c.data, digits), RunOptions())])
    for ours, plain in zip(*found, strict=True):
        assert ours["train/loss"] == pytest.approx(plain["train/loss"], rel=1e-9)
