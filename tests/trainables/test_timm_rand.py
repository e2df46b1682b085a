"""RandAugment on timm's scale against timm itself, which has Pillow do it, given the same draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from pydantic import ValidationError
from scipy import stats
from timm.data import auto_augment
from torch import Tensor
from torchvision.transforms import functional

from tests.trainables.test_augmentation import LAST, generator, make_images
from trainables.augmentation import build
from trainables.augmentation.geometry import CropFlip
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.timm_rand import OPERATIONS, Draws, TimmRandAugment, apply, draw
from trainables.augmentation.timm_settings import Settings, parse

FILL = (124, 116, 104)
PLAIN, INCREASING = auto_augment._RAND_TRANSFORMS, auto_augment._RAND_INCREASING_TRANSFORMS
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


@pytest.fixture(autouse=True)
def posterize_to_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Pillow turn an image black that keeps no bit, as before version 13, which refuses and with it stops timm."""

    def posterize(image: Image.Image, bits: int) -> Image.Image:
        return image.point([level & ~(2 ** (8 - bits) - 1) for level in range(256)] * 3)

    monkeypatch.setattr(ImageOps, "posterize", posterize)


def photos(count: int, size: int) -> Tensor:
    """Return images of the tests of augmentation, and slopes with some noise like those of a photograph."""
    along = torch.arange(size) / size
    slopes = torch.stack([along.expand(size, -1), along[:, None].expand(-1, size), along * along[:, None]]) * 200 + 20
    noise = torch.randn(count, 3, size, size, generator=generator(1)) * 4
    images = make_images(count, size)
    images[5::6] = (slopes + noise)[5::6].clamp(0, 255).to(torch.uint8)
    return images


def by_timm(op: Callable[[Image.Image], Image.Image], image: Tensor) -> Tensor:
    """Have timm augment one image uint8 ``[3, S, S]``."""
    out: Tensor = functional.pil_to_tensor(op(functional.to_pil_image(image)))
    return out


def given(monkeypatch: pytest.MonkeyPatch, *uniforms: float, gauss: float = 0.0, bicubic: bool = False) -> None:
    """Have timm draw these uniforms in this order, and choose this interpolation."""
    left = iter(uniforms)
    fake = SimpleNamespace(
        random=lambda: next(left),
        gauss=lambda mean, std: mean + std * gauss,
        uniform=lambda low, high: low + (high - low) * next(left),
        choice=lambda both: both[bicubic],
    )
    monkeypatch.setattr(auto_augment, "random", fake)


# ----------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("size", [2, 32, 57])
@pytest.mark.parametrize("position", range(15), ids=OPERATIONS)
def test_operation_equals_timm(monkeypatch: pytest.MonkeyPatch, position: int, size: int) -> None:
    """Magnitudes of all kinds, both signs and interpolations, on images of all kinds, to the last grey level."""
    drawn = (torch.rand(3, dtype=torch.float64, generator=generator(position)) * 10).tolist()
    combinations = [
        (magnitude, negative, bicubic)
        for magnitude in [0.0, 1.0, 2.5, 9.99, 10.0, 20.0, 27.3, 30.0, *drawn]
        for negative in (False, True)
        for bicubic in (False, True)
        for _ in range(6)  # kinds of images
    ]
    images = photos(len(combinations), size)
    magnitude, negative, bicubic = (np.array(column) for column in zip(*combinations, strict=True))
    every = torch.ones(len(images), dtype=torch.bool)
    draws = Draws(position * every, every, *(torch.from_numpy(column) for column in (magnitude, negative, bicubic)))
    for increasing, names in ((False, PLAIN), (True, INCREASING)):
        out = apply(images, draws, increasing, FILL)
        for image, result, (m, minus, cubic) in zip(images, out, combinations, strict=True):
            op = auto_augment.AugmentOp(names[position], 1.0, m, {"img_mean": FILL, "magnitude_max": 30})
            given(monkeypatch, 0.75 if minus else 0.25, bicubic=cubic)
            assert torch.equal(result, by_timm(op, image)), (names[position], m, minus, cubic)
        if size > 2:  # the fill matters to some, and all of them do something
            assert (apply(images, draws, increasing, (0, 0, 0)) != out).any() == (OPERATIONS[position] in MOVING)
            assert not torch.equal(out, images)


def test_rotations_by_any_angle_equal_pillow_s() -> None:
    """Of odd sizes, where the centre is a pixel; no rounding of sines and cosines shows."""
    images = torch.randint(0, 256, (600, 3, 9, 9), dtype=torch.uint8, generator=generator(2))
    magnitude = torch.rand(600, dtype=torch.float64, generator=generator(3)) * 10
    bicubic, sign = torch.arange(600) % 2 == 1, torch.arange(600) % 4 < 2
    every = torch.ones(600, dtype=torch.bool)
    out = apply(images, Draws(torch.full((600,), 3), every, magnitude, sign, bicubic), True, FILL)
    for i, image in enumerate(images):
        degrees = magnitude[i].item() / 10 * 30.0 * (-1 if sign[i] else 1)
        filter = Image.Resampling.BICUBIC if bicubic[i] else Image.Resampling.BILINEAR
        turned = functional.to_pil_image(image).rotate(degrees, filter, fillcolor=FILL)
        assert torch.equal(out[i], functional.pil_to_tensor(turned)), degrees


# ---------------------------------------------------------------------------------------------------- whole policy


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("rand-n2-m10-mstd0.5-inc1", 32), ("rand-m9-mstd0.5", 24), ("rand-m7-n3-mstd101-p1-inc1", 32), ("rand-p0.8", 57),
        ("rand-n2-m15-mmax20-mstd3-inc1", 24),
    ],
)  # fmt: skip
def test_policy_equals_timm_given_its_draws(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    settings = parse(text)
    reference = auto_augment.rand_augment_transform(text, {"img_mean": FILL})
    policy = TimmRandAugment(settings, FILL)
    images, u = photos(150, size), torch.rand(150, policy.draws, generator=generator(4))
    before = images.clone()
    out = policy(images, u)
    assert torch.equal(images, before)

    def choose(ops: list[object], count: int, replace: bool, p: object) -> Iterator[object]:
        assert (len(ops), count, replace, p) == (15, settings.n, True, None)
        for which, used, magnitude, sign, filter in uses:
            first = () if settings.p == 1 else (used,)
            uniform = (magnitude,) if settings.mstd > 100 else ()
            noise = NormalDist().inv_cdf(magnitude + 2**-25)
            given(monkeypatch, *first, *uniform, sign, gauss=noise, bicubic=filter >= 0.5)
            yield ops[int(which * 15)]

    monkeypatch.setattr(auto_augment, "np", SimpleNamespace(random=SimpleNamespace(choice=choose)))
    changed = 0
    for image, row, result in zip(images, u.double().view(150, -1, 5).tolist(), out, strict=True):
        uses = row
        expected = by_timm(reference, image)
        assert torch.equal(result, expected), row
        changed += not torch.equal(expected, image)
    assert changed > 60


def test_a_result_does_not_depend_on_the_batch() -> None:
    policy = TimmRandAugment(parse("rand-n3-m9-mstd0.5-inc1-p0.9"))
    images, u = photos(90, 33), torch.rand(90, 15, generator=generator(5))
    out = policy(images, u)
    for i in range(90):
        assert torch.equal(policy(images[i : i + 1], u[i : i + 1])[0], out[i])
    order = torch.randperm(90, generator=generator(6))
    assert torch.equal(policy(images[order], u[order]), out[order])
    assert policy(images[:0], u[:0]).shape == (0, 3, 33, 33)
    assert TimmRandAugment(Settings(n=0))(images, u[:, :0]).equal(images)


# ----------------------------------------------------------------------------------------------------------- draws


def test_draws_are_distributed_as_timm_s() -> None:
    u = torch.rand(30_000, 5, generator=generator(7))
    u[0], u[1] = 0.0, LAST
    draws = draw(parse("rand-m9-mstd0.5-p0.3"), u)
    assert stats.chisquare(draws.operation.bincount(minlength=15)).pvalue > 1e-3
    for column, share in ((draws.used, 0.3), (draws.negative, 0.5), (draws.bicubic, 0.5)):
        assert stats.binomtest(int(column.sum()), len(u), share).pvalue > 1e-3
    inner = draws.magnitude[draws.magnitude < 10]
    assert stats.kstest(inner, stats.truncnorm(-18, 2, loc=9, scale=0.5).cdf).pvalue > 1e-3
    assert stats.binomtest(int((draws.magnitude == 10).sum()), len(u), stats.norm.sf(2)).pvalue > 1e-3
    # What is not clipped, out of the way of both bounds.
    free = draw(parse("rand-m9-mstd0.5-mmax30"), u).magnitude
    assert free.mean().item() == pytest.approx(9, abs=0.01) and free.std().item() == pytest.approx(0.5, abs=0.01)
    exact = [9 + 0.5 * NormalDist().inv_cdf(value + 2**-25) for value in u[:2000, 2].double().tolist()]
    assert free[:2000].tolist() == pytest.approx(exact, abs=1e-13)
    wide = draw(parse("rand-m5-mstd60"), u).magnitude
    assert (wide.min().item(), wide.max().item()) == (0, 10)
    uniform = draw(parse("rand-m8-mstd101"), u).magnitude
    assert stats.kstest(uniform, stats.uniform(0, 8).cdf).pvalue > 1e-3
    assert draw(parse("rand-m8"), u).magnitude.unique().tolist() == [8]
    assert draw(parse("rand-p1"), u).used.all()
    # Columns are independent of one another.
    numbers = torch.stack([column.double() for column in draw(parse("rand-m5-mstd1"), u)]).numpy()
    assert np.abs(np.corrcoef(numbers) - np.eye(5)).max() < 0.03


# --------------------------------------------------------------------------------------------------------- strings


@pytest.mark.parametrize(
    "text",
    [
        "rand", "rand-m9-mstd0.5-inc1", "rand-n2-m10-mstd0.5-inc1", "rand-inc0-p0.25-n3", "rand-mmax20-m15-mstd1", "rand-n0-m0",
        "rand-mstd100", "rand-mstd101", "rand-mstd0", "rand-p1", "rand-n10-mstd2.",
    ],
)  # fmt: skip
def test_strings_mean_what_they_mean_in_timm(text: str) -> None:
    found, theirs = parse(text), auto_augment.rand_augment_transform(text)
    op = theirs.ops[0]
    assert (found.n, found.m, found.mstd, found.p) == (theirs.num_layers, op.magnitude, op.magnitude_std, op.prob)
    assert found.mmax == (op.magnitude_max or 10)
    assert [op.name for op in theirs.ops] == (INCREASING if found.inc else PLAIN)
    assert isinstance(found.inc, bool) and tuple(PLAIN) == OPERATIONS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("augmix-m3", "'augmix'"), ("", "''"), ("Rand", "'Rand'"), ("rand-", "section ''"), ("rand-tweights", "'tweights'"),
        ("rand-w0", "'w0'"), ("rand-x3", "'x3'"), ("rand-m", "'m'"), ("rand-m9.5", "'m9.5'"), ("rand-mstdinf", "'mstdinf'"),
        ("rand-mstd.5", "'mstd.5'"), ("rand-mstd1.2.3", "'mstd1.2.3'"), ("rand-inc", "'inc'"), ("rand-inc2", "'inc2'"),
        ("rand-m9-m9", "there twice"), ("rand-m9 ", "'m9 '"), ("rand-n11", "n11 is out"), ("rand-m11", "m11 is out.*mmax10"),
        ("rand-mmax0-m0", "mmax0 is out"), ("rand-mmax101", "mmax101 is out"), ("rand-mmax5", "m10 is out.*mmax5"),
        ("rand-p1.5", "p1.5 is out"),
    ],
)  # fmt: skip
def test_other_strings_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"{words}.*sections are n .*mmax .*probability"):
        parse(text)


def test_numbers_out_of_range_are_refused() -> None:
    for wrong in ({"n": -1}, {"m": -1}, {"mstd": -0.5}, {"mstd": math.nan}, {"p": -0.1}):
        with pytest.raises(ValueError, match="out of range"):
            Settings(**wrong)
    for fill in (-1, 256, (0, 0, 256), (0, 0)):
        with pytest.raises(ValueError, match="fill"):
            TimmRandAugment(Settings(), fill)
    images, u = photos(60, 16), torch.rand(60, 10, generator=generator(8))
    grey, colour = TimmRandAugment(Settings(), 90)(images, u), TimmRandAugment(Settings(), (90, 90, 90))(images, u)
    assert torch.equal(grey, colour) and not torch.equal(grey, TimmRandAugment(Settings())(images, u))


def test_a_study_names_it_by_its_string() -> None:
    """After crop and flip, with the mean colour of ImageNet outside; what it says itself is not said beside it."""
    words = {"policy": "rand", "rand": "rand-n3-m7-mstd0.5", "cutout": 0}
    policy = build("rand", AugmentationConfig.model_validate(words), size=32)
    assert (
        policy.stages == (CropFlip(32), TimmRandAugment(Settings(n=3, m=7, mstd=0.5), FILL)) and policy.draws == 3 + 15
    )
    for wrong, message in (
        ({"rand": "rand-n3-w0"}, "unknown, malformed or there twice"),
        ({"m": 9}, r"augmentation\.m has no meaning beside augmentation\.rand"),
        ({"policy": "auto"}, r"augmentation\.rand = .* does nothing with policy auto"),
    ):
        with pytest.raises(ValidationError, match=message):
            AugmentationConfig.model_validate({**words, **wrong})
