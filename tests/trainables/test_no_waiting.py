"""Nothing inside an epoch makes a GPU's host wait: no shape and no branch depends on what a device holds.

Where no GPU is, torch's meta device stands in for one: its tensors have shapes and no values, so that whatever asks for one
(``item``, ``nonzero``, a boolean index, ``cpu``) raises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import TRAINED, required_weights, small_trial
from tests.trainables.test_training import config
from trainables.augmentation import geometry, operations, resized_crop, timm_rand
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.policies import auto, rand, sim
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.methods import METHODS
from trainables.methods.lfme.method import LFME
from trainables.run_options import RunOptions
from trainables.training import _Trial

POLICIES = [
    {},
    {"policy": "rand"},
    {"policy": "rand", "n": 3, "m": 5, "fill": 128, "cutout": 4},
    {"policy": "auto", "fill": 128},
    {"policy": "rand", "rand": "rand-n2-m9-mstd0.5", "color_jitter": 0.4},
    {"policy": "rand", "rand": "rand-n3-m10-mstd0.5-inc1"},
    {"policy": "sim", "crop": "random_resized_crop"},
]


@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_both_ways_give_the_same_pixels(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    a = AugmentationConfig(**options)
    chain = {"sim": sim, "rand": rand, "auto": auto}[a.policy](32, a)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (96, 3, 40 if a.crop == "random_resized_crop" else 32, 40), generator=generator).byte()
    images = images[..., : images.shape[-2]]
    images[:3] = torch.tensor([0, 200, 255]).view(3, 1, 1, 1).byte()  # of one grey level
    images[3:40] //= 5
    u = torch.rand(96, chain.draws, generator=generator)
    sorted_first = chain(images, u)
    for module in (geometry, operations, resized_crop, timm_rand):
        monkeypatch.setattr(module, "must_not_wait", lambda images: True)
    assert torch.equal(chain(images, u), sorted_first)


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_augmentation(options: dict[str, Any], mix: str, digits: Any) -> None:
    take_steps(config(augmentation={"copies": 2, "mix": mix, **options}), digits)


def of_method(name: str) -> TrialConfig:
    return config(method={"name": name}, model={"experts": 3}, optimizer={"clip_norm": 1.0})


# one_way_smoothing is for two classes.
ALONE = [n for n in TRAINED if n != "one_way_smoothing" and not (c := of_method(n)).method.requires(c)]
# weight_balancing holds on to its heads, which a device without values replaces and a GPU does not.
AFTER = [n for n in METHODS if n != "weight_balancing" and (c := small_trial(n)).method.requires(c) and c.loop.trains]


@pytest.mark.parametrize("name", ALONE)
def test_methods(name: str, digits: Any) -> None:
    take_steps(of_method(name), digits)


@pytest.mark.filterwarnings("ignore:.*no-op")  # of weights that are read into tensors without values
@pytest.mark.parametrize("name", AFTER)
def test_methods_that_begin_with_other_trials_weights(
    name: str, digits: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LFME, "survey", lambda *words: None)  # before the first epoch, class by class
    c, folder = small_trial(name), tmp_path_factory.getbasetemp() / "first_trials"
    take_steps(c, digits, required_weights(c, digits, folder))


def test_what_waits_is_noticed(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    for module in (geometry, operations):
        with monkeypatch.context() as patch:
            patch.setattr(module, "must_not_wait", lambda images: False)
            with pytest.raises(NotImplementedError, match="(?i)meta"):
                take_steps(config(augmentation={"copies": 2, "policy": "rand"}), digits)


def take_steps(c: TrialConfig, digits: Any, required: tuple[Path, ...] = ()) -> None:
    data = split(c.data, digits)
    trial = _Trial(c, data, RunOptions(device=torch.device("meta"), required=required))
    steps = trial.feed.steps(0)[:2]
    for step, batch in trial.feed.batches(steps, 0):
        losses = trial._forward_backward(step, batch)
        trial._optimizer_step()
    assert len(steps) == 2 and losses["loss"].device.type == "meta"
