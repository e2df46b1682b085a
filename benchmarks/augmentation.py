"""Augmentation of uint8 batches against torchvision's transforms, image by image. One thread."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import AutoAugmentPolicy

from benchmarks.measure import Row, interleaved, rates, ratios
from trainables import augmentation, draws
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.pixels import normalize
from trainables.data.cifar import MEAN, STD

TITLE = "Augmentation"
TARGET = 8.0
IMAGES, SIZE = 256, 32


class Cutout:
    """DeVries and Taylor (2017) as training scripts have it: one square of a float image is zeroed, clipped at the border."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = np.random.randint(height), np.random.randint(width)
        half = self.length // 2
        mask = torch.ones(height, width)
        mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return image * mask


def torchvision_transform(policy: str) -> Callable[[Image.Image], Tensor]:
    """PIL image to normalised float tensor, as in usual training scripts."""
    stages: list[Callable[..., object]] = [transforms.RandomCrop(SIZE, padding=4), transforms.RandomHorizontalFlip()]
    if policy == "rand":
        stages.append(transforms.RandAugment(num_ops=2, magnitude=10))
    if policy == "auto":
        stages.append(transforms.AutoAugment(AutoAugmentPolicy.CIFAR10))
    stages += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    if policy == "auto":
        stages.append(Cutout(16))
    compose: Callable[[Image.Image], Tensor] = transforms.Compose(stages)
    return compose


def run(quick: bool) -> list[Row]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_row(policy, 3 if quick else 40) for policy in ("rand", "auto", "sim")]
    finally:
        torch.set_num_threads(threads)


def _row(policy: str, rounds: int) -> Row:
    torch.manual_seed(0)
    np.random.seed(0)
    # Low-frequency colours, as in photographs, so that no operation meets a degenerate histogram.
    coarse = torch.randint(256, (IMAGES, 3, 5, 5)).float()
    images = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(0, 255).to(torch.uint8)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    transform = torchvision_transform(policy)
    chain = augmentation.build(policy, AugmentationConfig(), size=SIZE)
    epochs = iter(range(1_000_000))
    numbers = torch.arange(IMAGES)

    def theirs() -> Tensor:
        return torch.stack([transform(picture) for picture in pictures])

    def ours() -> Tensor:
        u = draws.uniforms((0, draws.STREAMS["augment"], next(epochs), numbers), chain.draws)
        return normalize(chain(images, u), MEAN, STD)

    assert theirs().shape == ours().shape and theirs().dtype == ours().dtype
    seconds = interleaved({"torchvision": theirs, "ours": ours}, rounds, warm_up=3)
    ratio = ratios(seconds["torchvision"], seconds["ours"])
    return Row(
        {"rand": "rand", "auto": "auto + Cutout 16", "sim": "sim (crop + flip)"}[policy],
        "images/s",
        ours=rates(IMAGES, seconds["ours"]),
        reference=rates(IMAGES, seconds["torchvision"]),
        ratio=ratio,
        target=f"≥ {TARGET:g}",
        met=ratio.median >= TARGET,
    )
