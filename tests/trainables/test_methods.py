"""What every method in the catalogue must do; a new one is tested by being listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import make_batch, make_method
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.methods import METHODS, method_class, options_class
from trainables.methods.base import Method
from trainables.methods.options import MethodOptions
from trainables.training import RunOptions, train

every_method = pytest.mark.parametrize("name", METHODS)


@every_method
def test_options(name: str) -> None:
    cls = options_class(name)
    assert issubclass(cls, MethodOptions) and cls.model_fields["name"].default == name
    options = cls()
    assert cls.model_validate_json(options.model_dump_json()) == options
    assert isinstance(cls.recipe, int) and cls.recipe >= 1
    with pytest.raises(ValueError, match="frozen"):
        options.name = "other"


@every_method
def test_it_is_a_module_of_the_right_kind(name: str) -> None:
    assert issubclass(method_class(name), Method)


@every_method
@pytest.mark.parametrize("shape", [(1, 1, 3, 2), (2, 1, 4, 5), (1, 3, 4, 5), (3, 2, 2, 20)])
def test_losses_are_finite_scalars_with_gradients(name: str, shape: tuple[int, ...]) -> None:
    classes = shape[-1]
    for scale in (1.0, 1e4):
        z = (torch.randn(shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * scale).requires_grad_()
        method = make_method(z, [100] + [1] * (classes - 1), precision="fp32", name=name)
        losses = method.losses(make_batch(z, [b % classes for b in range(shape[2])]))
        assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
        (gradient,) = torch.autograd.grad(losses["loss"], z)
        assert torch.isfinite(gradient).all()
        assert scale > 1 or gradient.abs().sum() > 0
        assert all(not value.requires_grad for key, value in losses.items() if key != "loss")


@every_method
def test_mixup_with_coefficient_one_is_the_plain_loss(name: str) -> None:
    z = torch.randn(2, 2, 3, 6, dtype=torch.float64)
    method = make_method(z, [30, 20, 10, 5, 2, 1], name=name)
    plain = method.losses(make_batch(z, [0, 3, 5]))["loss"]
    same = method.losses(make_batch(z, [0, 3, 5], [0, 3, 5], [0.3, 0.6, 1.0]))["loss"]
    assert same.item() == pytest.approx(plain.item(), rel=1e-12)


@every_method
def test_images_do_not_see_each_other(name: str) -> None:
    """The loss of a batch is the mean of the losses of its halves."""
    z = torch.randn(2, 2, 6, 5, dtype=torch.float64)
    labels = [0, 1, 2, 3, 4, 0]
    method = make_method(z, [30, 20, 10, 5, 1], name=name)
    whole = method.losses(make_batch(z, labels))["loss"]
    halves = [method.losses(make_batch(z[:, :, part], labels[part]))["loss"] for part in (slice(0, 3), slice(3, 6))]
    assert whole.item() == pytest.approx(sum(h.item() for h in halves) / 2, rel=1e-12)


@every_method
def test_it_learns_the_digits(name: str, digits: Any, tmp_path: Path) -> None:
    config = TrialConfig.model_validate(
        {
            "data": {"name": "digits", "imbalance": {"profile": "natural"}},
            "model": {"backbone": "resnet8", "experts": 2},
            "augmentation": {"policy": "none", "copies": 1},
            "method": {"name": name},
            "training": {"epochs": 3, "batch_size": 64},
            "schedule": {"name": "cosine"},
        }
    )
    data, weights = split(config.data, digits), []
    for number, (_, first) in enumerate(config.method.requires(config)):
        folder = tmp_path / str(number)
        *_, last = train(first, data, RunOptions(folder=folder, keep_final=True))
        weights.append(folder / "weights.pt")
    *_, last = train(config, data, RunOptions(required=tuple(weights)))
    assert last.metrics["test/ensemble_top1"] > 0.85
