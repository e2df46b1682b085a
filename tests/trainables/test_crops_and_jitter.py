"""Inception's crop, colour jitter, fill and flips against torchvision and Pillow, given the same draws."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

from tests.trainables.test_augmentation import LAST, generator, make_images, reference_op
from trainables.augmentation import build
from trainables.augmentation.color import ColorJitter
from trainables.augmentation.operations import apply, compile_table
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.resized_crop import RandomResizedCrop, all_at_once, resized_crop, windows

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def sides(count: int, pixels: int) -> torch.Tensor:
    """The same rows or columns for every image."""
    return torch.full((count,), pixels)


def one_window(u: list[float], height: int, width: int, scale: tuple[float, float]) -> tuple[int, int, int, int]:
    """``RandomResizedCrop.get_params`` of torchvision, line by line, with uniforms instead of its generator."""
    for attempt in range(10):
        target = height * width * (scale[0] + u[2 * attempt] * (scale[1] - scale[0]))
        low, high = math.log(RATIO[0]), math.log(RATIO[1])
        aspect = math.exp(low + u[2 * attempt + 1] * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(u[20] * (height - h + 1)), int(u[21] * (width - w + 1)), h, w
    own = width / height
    if own < RATIO[0]:
        w, h = width, round(width / RATIO[0])
    elif own > RATIO[1]:
        h, w = height, round(height * RATIO[1])
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(("height", "width"), [(32, 32), (256, 256), (8, 8), (30, 90), (90, 30), (40, 45)])
@pytest.mark.parametrize("scale", [SCALE, (0.9, 1.0), (1.0, 1.0)])
def test_windows_against_torchvision_line_by_line(height: int, width: int, scale: tuple[float, float]) -> None:
    u = torch.rand(500, 22, generator=generator(1))
    u[0], u[1] = 0.0, LAST
    found = windows(u, sides(len(u), height), sides(len(u), width), scale, RATIO)
    assert found.tolist() == [list(one_window(row, height, width, scale)) for row in u.double().tolist()]


def test_windows_are_distributed_as_torchvision_s() -> None:
    ours = windows(torch.rand(4000, 22, generator=generator(2)), sides(4000, 64), sides(4000, 64), SCALE, RATIO)
    torch.manual_seed(3)
    image = torch.zeros(3, 64, 64)
    theirs = torch.tensor(
        [transforms.RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(4000)]
    )
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    area = [(one[:, 2] * one[:, 3]).numpy() for one in (ours, theirs)]
    assert stats.ks_2samp(*area).pvalue > 1e-3
    narrow = windows(torch.rand(4000, 22, generator=generator(2)), sides(4000, 64), sides(4000, 64), (0.2, 1.0), RATIO)
    assert stats.ks_2samp((narrow[:, 2] * narrow[:, 3]).numpy(), area[1]).pvalue < 1e-3  # the test would notice


@pytest.mark.parametrize(("stored", "size"), [(32, 32), (64, 48), (40, 16), (16, 24), (256, 224)])
def test_windows_are_resized_as_pillow_does(stored: int, size: int) -> None:
    """Every grey level of every pixel, for windows of any size, enlarged and reduced."""
    count = 40 if stored < 256 else 6
    images = make_images(count, stored)
    found = windows(
        torch.rand(count, 22, generator=generator(4)), sides(count, stored), sides(count, stored), SCALE, RATIO
    )
    found[0] = torch.tensor([0, 0, stored, stored])
    found[1] = torch.tensor([stored - 1, stored - 1, 1, 1])
    found[2] = torch.tensor([3, 0, 1, stored])
    out = resized_crop(images, found, size)
    assert torch.equal(all_at_once(images, found, size), out)
    for image, (top, left, rows, columns), result in zip(images, found.tolist(), out, strict=True):
        pil = functional.to_pil_image(image)
        cut = pil.crop((left, top, left + columns, top + rows))
        both = cut.resize((size, rows), Image.Resampling.BILINEAR).resize((size, size), Image.Resampling.BILINEAR)
        assert torch.equal(result, functional.pil_to_tensor(both))
        # From version 13 on Pillow itself goes down the columns first where that is cheaper, and rounds there in between.
        theirs = functional.resized_crop(pil, top, left, rows, columns, [size, size], InterpolationMode.BILINEAR)
        assert (result.int() - functional.pil_to_tensor(theirs).int()).abs().max() <= 1


def test_windows_of_whole_pictures() -> None:
    """Images of several sizes at once: each as it would be alone, and as torchvision's transform cuts it on the same draws."""
    random = np.random.default_rng(8)
    pictures = [
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in [(30, 50), (80, 40), (64, 64)] * 4
    ]
    u = torch.rand(len(pictures), 23, generator=generator(9))
    policy = RandomResizedCrop(24)
    with ThreadPoolExecutor(2) as pool:
        out = policy.of_pictures(pictures, u, pool)
    for number, (picture, draws) in enumerate(zip(pictures, u.double().tolist(), strict=True)):
        assert torch.equal(policy(functional.pil_to_tensor(picture)[None], u[number : number + 1])[0], out[number])
        window = one_window(draws, picture.height, picture.width, SCALE)
        theirs = functional.resized_crop(picture, *window, [24, 24], InterpolationMode.BILINEAR)
        theirs = functional.hflip(theirs) if draws[22] < 0.5 else theirs
        assert (
            out[number].int() - functional.pil_to_tensor(theirs).int()
        ).abs().max() <= 1  # the order of Pillow's two steps


def test_the_whole_crop_flips_half_of_them() -> None:
    images = make_images(400, 20)
    u = torch.rand(400, 23, generator=generator(5))
    policy = RandomResizedCrop(16)
    out, plain = policy(images, u), RandomResizedCrop(16, flip=False)(images, u)
    mirrored = u[:, 22] < 0.5
    assert torch.equal(out[mirrored], plain[mirrored].flip(-1)) and torch.equal(out[~mirrored], plain[~mirrored])
    assert torch.equal(policy(images[7:9], u[7:9]), out[7:9])  # whatever else is in the batch
    with pytest.raises(ValueError, match="crop_scale"):
        RandomResizedCrop(16, (0.5, 0.2))


# ------------------------------------------------------------------------------------------------- colour jitter

ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
ADJUST = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_jitter_equals_torchvision_given_its_draws(strength: float) -> None:
    images = make_images(300, 24)
    u = torch.rand(300, 4, generator=generator(6))
    u[:6, 1:] = torch.tensor([0.0, LAST, 0.5])  # the ends, and factors of exactly 1
    out = ColorJitter(strength)(images, u)
    for image, draw, result in zip(images, u.double().tolist(), out, strict=True):
        expected = image
        for operation in ORDERS[int(draw[0] * 6)]:
            factor = max(0.0, 1 - strength) + draw[1 + operation] * (1 + strength - max(0.0, 1 - strength))
            expected = ADJUST[operation](expected, factor)
        assert torch.equal(result, expected)


def test_jitter_is_distributed_as_torchvision_s() -> None:
    """Means of the three channels of one image, over many draws."""
    image = make_images(2, 8)[1]
    ours = ColorJitter(0.4)(image.expand(3000, -1, -1, -1), torch.rand(3000, 4, generator=generator(7)))
    torch.manual_seed(8)
    reference = transforms.ColorJitter(0.4, 0.4, 0.4)
    theirs = torch.stack([reference(image) for _ in range(3000)])

    def channel(images: Tensor, number: int) -> list[float]:
        return images[:, number].float().mean((1, 2)).tolist()

    for number in range(3):
        assert stats.ks_2samp(channel(ours, number), channel(theirs, number)).pvalue > 1e-3
    weaker = ColorJitter(0.3)(image.expand(3000, -1, -1, -1), torch.rand(3000, 4, generator=generator(7)))
    assert stats.ks_2samp(channel(weaker, 0), channel(theirs, 0)).pvalue < 1e-3  # the test would notice
    with pytest.raises(ValueError, match="negative"):
        ColorJitter(-0.1)


# -------------------------------------------------------------------------------------------------- fill and flips


@pytest.mark.parametrize("fill", [1, 128, 255])
@pytest.mark.parametrize("name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"])
def test_fill_equals_torchvision_s(name: str, fill: int) -> None:
    value = {"Rotate": 23.0, "TranslateX": 5.0, "TranslateY": -7.0}.get(name, 0.27)
    images = make_images(10, 32)
    table = compile_table(((name, value), (name, -value)), 32, 32, images.device, fill)
    out = apply(images, torch.arange(10) % 2, table)
    for i, (image, result) in enumerate(zip(images, out, strict=True)):
        signed = value if i % 2 == 0 else -value
        white = reference_op(torch.full_like(image, 255), name, signed) == 255  # where there is an image
        assert torch.equal(result, torch.where(white, reference_op(image, name, signed), fill))
    black = compile_table(((name, value), (name, -value)), 32, 32, images.device)
    assert not torch.equal(apply(images, torch.arange(10) % 2, black), out)


@pytest.mark.parametrize("name", ["sim", "rand", "auto"])
def test_the_options_reach_every_policy(name: str) -> None:
    images = make_images(60, 20)

    def made(**options: object) -> Tensor:
        policy = build(name, AugmentationConfig(policy=name, cutout=0, **options), size=16)  # type: ignore[arg-type]
        return policy(images, torch.rand(60, policy.draws, generator=generator(9)))

    plain = made()
    assert not torch.equal(made(flip=False), plain)
    assert not torch.equal(made(color_jitter=0.4), plain)
    assert not torch.equal(made(crop="random_resized_crop"), plain)
    assert not torch.equal(made(crop="random_resized_crop", crop_scale=(0.5, 1.0)), made(crop="random_resized_crop"))
    if name != "sim":
        assert not torch.equal(made(fill=128), plain)


def test_nothing_flips_without_flips() -> None:
    images = make_images(200, 16)
    policy = build("sim", AugmentationConfig(flip=False), size=16)
    u = torch.rand(200, 3, generator=generator(10))
    flipped = torch.cat([u[:, :2], torch.zeros(200, 1)], 1)
    assert torch.equal(policy(images, u), policy(images, flipped))


def test_none_cuts_the_centre_as_evaluation_does() -> None:
    images = make_images(10, 20)
    out = build("none", AugmentationConfig(), size=16)(images, torch.empty(10, 0))
    assert torch.equal(out, torch.stack([transforms.CenterCrop(16)(image) for image in images]))
