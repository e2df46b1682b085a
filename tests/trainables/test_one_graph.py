"""What a step does is one graph, as CUDA graphs and compilers want it: no break that depends on what a tensor holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.trainables.helpers import required_weights, small_trial
from tests.trainables.test_no_waiting import AFTER, ALONE, POLICIES, of_method
from trainables import augmentation
from trainables.augmentation.options import AugmentationConfig
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.models import cifar_resnet
from trainables.run_options import RunOptions
from trainables.training import _Trial

pytestmark = pytest.mark.slow  # tracing takes seconds


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_augmentation(options: dict[str, Any]) -> None:
    a = AugmentationConfig(**options)
    policy = augmentation.build(a.policy, a, size=32)
    side = 44 if a.crop == "random_resized_crop" else 32
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (16, 3, side, side), generator=generator).byte()
    u = torch.rand(16, policy.draws, generator=generator)
    whole = torch.compile(policy, fullgraph=True, backend="eager")  # raises where the graph breaks
    assert torch.equal(whole(images, u), policy(images, u))


class OneConvolution(nn.Conv2d):
    """In place of a ResNet's block, which takes most of the tracing and is the same for every method."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, 1, stride)


@pytest.mark.parametrize("name", ALONE)
def test_forward_pass_and_losses(name: str, digits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the whole network and with gradients, where the method is the one that all of this is for."""
    if name != "ncl_pp":
        monkeypatch.setattr(cifar_resnet, "_Block", OneConvolution)
    is_one_graph(of_method(name), digits, backend="aot_eager" if name == "ncl_pp" else "eager")


@pytest.mark.parametrize("name", AFTER)
def test_methods_that_begin_with_other_trials_weights(
    name: str, digits: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar_resnet, "_Block", OneConvolution)
    c, folder = small_trial(name), tmp_path_factory.getbasetemp() / "first_trials_of_one_convolution"
    is_one_graph(c, digits, required_weights(c, digits, folder), backend="eager")


def is_one_graph(c: TrialConfig, digits: Any, required: tuple[Path, ...] = (), *, backend: str) -> None:
    """In the last epoch, when all that begins late has begun; and it computes what it does otherwise."""
    found = []
    for whole in (True, False):
        trial = _Trial(c, split(c.data, digits), RunOptions(required=required))
        assert trial.step is not None
        trial.network.train()
        trial.method.train()
        if whole:
            trial.step.compile(fullgraph=True, backend=backend)  # raises where the graph breaks
        last = c.loop.epochs - 1
        for step, batch in trial.feed.batches(trial.feed.steps(last)[:2], last):
            losses = trial._forward_backward(step, batch)
            trial._optimizer_step()
        found.append({name: float(value.detach()) for name, value in losses.items()})
    assert found[0] == pytest.approx(found[1], rel=1e-4)
