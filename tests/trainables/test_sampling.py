"""Samplers: frequencies against their definition, occurrences, deferral, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from trainables import sampling
from trainables.config import SamplingConfig, TrialConfig
from trainables.data.longtail import check_batches, split
from trainables.errors import DataError
from trainables.run_options import RunOptions
from trainables.training import _Trial

COUNTS = [400, 150, 40, 10]
LABELS = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
N = len(LABELS)


def epoch_of(epoch: int = 0, epochs: int = 10, seed: int = 0, **fields: Any) -> sampling.Drawn:
    return sampling.draw(SamplingConfig(**fields), LABELS, seed, epoch, epochs)


@pytest.mark.parametrize(
    ("fields", "weights"),
    [
        ({"name": "square_root"}, np.sqrt(COUNTS)),
        ({"name": "class_balanced"}, np.ones(4)),
        ({"name": "power", "q": 0.25}, np.array(COUNTS) ** 0.25),
        ({"name": "reversed"}, 1 / np.array(COUNTS)),
    ],
)
def test_classes_are_drawn_with_their_probability(fields: dict[str, Any], weights: np.ndarray) -> None:
    p = weights / weights.sum()
    drawn = torch.cat([epoch_of(e, epochs=50, **fields).image for e in range(50)])
    counts = torch.bincount(LABELS[drawn], minlength=4).numpy()
    assert stats.chisquare(counts, p * len(drawn)).pvalue > 1e-4
    # Within a class all images alike.
    images = torch.bincount(drawn[LABELS[drawn] == 1], minlength=N)[LABELS == 1].numpy()
    assert stats.chisquare(images).pvalue > 1e-4


def test_progressive_goes_from_instance_to_class_balanced() -> None:
    n = np.array(COUNTS, float)
    np.testing.assert_allclose(sampling.progressive(n, 0.0), n / n.sum())
    np.testing.assert_allclose(sampling.progressive(n, 1.0), np.full(4, 0.25))
    np.testing.assert_allclose(sampling.progressive(n, 0.25), 0.75 * n / n.sum() + 0.25 * 0.25)
    last = torch.cat([epoch_of(9, seed=s, name="progressive").image for s in range(20)])
    assert stats.chisquare(torch.bincount(LABELS[last], minlength=4).numpy()).pvalue > 1e-4


@pytest.mark.parametrize(("name", "each"), [("oversample", 400), ("undersample", 10)])
def test_quotas(name: str, each: int) -> None:
    first, second = epoch_of(0, name=name), epoch_of(1, name=name)
    assert torch.bincount(LABELS[first.image]).tolist() == [each] * 4
    times = torch.bincount(first.image, minlength=N)
    for j in range(4):
        of_class = times[LABELS == j]
        assert of_class.max() - of_class.min() <= 1  # each image as often as any other, give or take one
    # Which images come once more, or are left out, stays; their order does not.
    assert torch.equal(times, torch.bincount(second.image, minlength=N)) and not torch.equal(first.image, second.image)


def test_instance_takes_every_image_once_and_deferral_starts_with_it() -> None:
    assert torch.equal(epoch_of(name="instance").image.sort().values, torch.arange(N))
    deferred = {"name": "class_balanced", "from_epoch": 0.8}
    assert torch.equal(epoch_of(7, **deferred).image, epoch_of(7, name="instance").image)
    assert torch.equal(epoch_of(8, **deferred).image, epoch_of(8, name="class_balanced").image)


def test_occurrences_count_what_came_before() -> None:
    assert sampling.occurrences(torch.tensor([5, 3, 5, 5, 3, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    drawn = epoch_of(name="class_balanced")
    seen: dict[int, int] = {}
    for image, occurrence in zip(drawn.image.tolist(), drawn.occurrence.tolist(), strict=True):
        assert occurrence == seen.get(image, 0)
        seen[image] = occurrence + 1
    assert max(seen.values()) > 5


def test_an_image_that_comes_twice_is_augmented_twice(digits: Any) -> None:
    config = TrialConfig.model_validate(
        {"data": {"name": "digits", "imbalance": {"factor": 50}}, "model": {"backbone": "resnet8"},
         "sampling": {"name": "class_balanced"}, "augmentation": {"policy": "sim"}, "training": {"batch_size": 256}}
    )  # fmt: skip
    trial = _Trial(config, split(config.data, digits), RunOptions())
    ((_, batch), *_) = trial.feed.batches(trial.feed.steps(0), 0)
    image = int(torch.bincount(batch.image).argmax())
    same = batch.inputs[batch.image == image]
    assert len(same) > 4 and len(torch.unique(same.flatten(1), dim=0)) > len(same) / 2


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"sampling": {"name": "power", "q": 4.0}},
            r"sampling.name = 'power', q = 4 leaves class '9' \(.* images\) without images: .* use q nearer to 0",
        ),
        (
            {"sampling": {"name": "undersample"}, "training": {"batch_size": 128}},
            r"'undersample' leaves 10 images an epoch \(1 of each of 10 classes\), fewer than training.batch_size = 128",
        ),
    ],
)
def test_what_leaves_too_little(digits: Any, over: dict[str, Any], message: str) -> None:
    tree = {"data": {"name": "digits", "imbalance": {"factor": 100}}, "method": {"name": "ce"}, **over}
    config = TrialConfig.model_validate(tree)
    with pytest.raises(DataError, match=message):
        check_batches(config, split(config.data, digits))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "balanced"}, "Input should be 'instance'"),
        ({"name": "class_balanced", "q": 0.3}, "goes with `name: power`"),
        ({"name": "instance", "from_epoch": 0.5}, "defers another sampling"),
    ],
)
def test_wrong_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**fields)
