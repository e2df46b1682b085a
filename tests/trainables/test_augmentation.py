"""Augmentation against torchvision's transforms of one image, which are the reference.

Shapes: ``N`` images, ``H`` rows, ``W`` columns; images are uint8 ``[N, 3, H, W]``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional
from torchvision.transforms.autoaugment import _apply_op

from trainables.augmentation import POLICIES, build
from trainables.augmentation.geometry import Cutout, center_crop, choose, cutout
from trainables.augmentation.operations import Entry, apply, compile_table, magnitude
from trainables.augmentation.options import AugmentationConfig
from trainables.augmentation.pixels import normalize, normalize_by_table
from trainables.augmentation.policies import AutoAugment, Chain, RandAugment

LAST = 1 - 2.0**-24  # the largest uniform
# Signed ops first. RandAugment has all but Invert, AutoAugment all but Identity.
GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
COLOUR = (
    "Brightness", "Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert",
)  # fmt: skip
CIFAR10 = transforms.AutoAugmentPolicy.CIFAR10


def generator(seed: int) -> torch.Generator:
    """Return a seeded generator."""
    return torch.Generator().manual_seed(seed)


def make_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Return noise, smooth, low-contrast, constant and two-level images in turn, uint8 ``[count, 3, size, size]``."""
    g = generator(seed)
    noise = torch.randint(0, 256, (count, 3, size, size), generator=g)
    smooth = torch.nn.functional.interpolate(torch.rand(count, 3, 3, 3, generator=g), size=size, mode="bilinear") * 255
    kinds = [noise, smooth.long(), 90 + noise // 8, noise[..., :1, :1].expand_as(noise), (noise > 200) * 255]
    return torch.stack([kinds[i % len(kinds)][i] for i in range(count)]).to(torch.uint8)


def reference_op(image: Tensor, name: str, value: float) -> Tensor:
    """Run torchvision's operation on one uint8 tensor."""
    out: Tensor = _apply_op(image, name, value, InterpolationMode.NEAREST, None)
    return out


def reference_entries(name: str, size: int) -> list[Entry]:
    """List every magnitude of both of torchvision's augmentation spaces, with both signs where signs are drawn."""
    entries = []
    for policy, levels in ((transforms.RandAugment(), 31), (transforms.AutoAugment(CIFAR10), 10)):
        space = policy._augmentation_space(levels, (size, size))
        if name in space:
            values, signed = space[name]
            for value in values.reshape(-1).tolist():
                entries += [(name, value), (name, -value)] if signed else [(name, value)]
    return entries


def run_entries(images: Tensor, entries: list[Entry]) -> Tensor:
    """Apply entry ``i`` to image ``i``."""
    table = compile_table(tuple(entries), *images.shape[-2:], images.device)
    return apply(images, torch.arange(len(entries)), table)


# ----------------------------------------------------------------------------------------------------- operations


@pytest.mark.parametrize("size", [2, 3, 8, 16, 31, 32, 64])
@pytest.mark.parametrize("name", [*GEOMETRIC, *COLOUR])
def test_operation_equals_torchvision_on_tensors(name: str, size: int) -> None:
    """Every magnitude and sign, on images of all kinds, to the last grey level."""
    entries = [entry for entry in reference_entries(name, size) for _ in range(5)]
    images = make_images(len(entries), size)
    expected = torch.stack([reference_op(image, *entry) for image, entry in zip(images, entries, strict=True)])
    assert torch.equal(run_entries(images, entries), expected)


def test_operations_equal_torchvision_at_imagenet_size() -> None:
    """All operations in one batch at 224 px."""
    entries = [reference_entries(name, 224)[-1] for name in (*GEOMETRIC, *COLOUR)]
    images = make_images(len(entries), 224)
    expected = torch.stack([reference_op(image, *entry) for image, entry in zip(images, entries, strict=True)])
    assert torch.equal(run_entries(images, entries), expected)


@pytest.mark.parametrize("name", COLOUR)
def test_colour_operation_is_within_a_grey_level_of_pil(name: str) -> None:
    """Tensors truncate where PIL rounds; operations on integers are equal."""
    entries = reference_entries(name, 32)
    images = make_images(len(entries), 32)
    pil = [
        functional.pil_to_tensor(reference_op(functional.to_pil_image(image), *entry))
        for image, entry in zip(images, entries, strict=True)
    ]
    difference = (run_entries(images, entries).int() - torch.stack(pil).int()).abs().max().item()
    exact = name in ("Brightness", "Posterize", "Solarize", "Equalize", "Invert")
    assert difference <= (0 if exact else 1)


@pytest.mark.parametrize(("name", "most", "mean"), [
    ("TranslateX", 0, 0), ("TranslateY", 0, 0), ("ShearX", 0.1, 0.01), ("ShearY", 0.1, 0.01), ("Rotate", 0.005, 0.001),
])  # fmt: skip
def test_geometric_operation_is_close_to_pil(name: str, most: float, mean: float) -> None:
    """PIL breaks ties between neighbours otherwise, e.g. at slope 0.2: in up to 9 % of the pixels at 32 px."""
    entries = reference_entries(name, 32)
    image = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8, generator=generator(1))
    ours = run_entries(image.expand(len(entries), -1, -1, -1), entries)
    pil = [functional.pil_to_tensor(reference_op(functional.to_pil_image(image), *entry)) for entry in entries]
    share = (ours != torch.stack(pil)).any(dim=1).float().mean(dim=(1, 2))
    assert share.max() <= most
    assert share.mean() <= mean


@pytest.mark.parametrize("size", [8, 32, 224])
@pytest.mark.parametrize("levels", [31, 10])
def test_magnitudes_are_torchvision_s(size: int, levels: int) -> None:
    """Value and signedness of every bin."""
    policy = transforms.RandAugment() if levels == 31 else transforms.AutoAugment(CIFAR10)
    for name, (values, signed) in policy._augmentation_space(levels, (size, size)).items():
        for level in range(levels):
            expected = float(values[level]) if values.ndim else 0.0
            assert magnitude(name, level, levels, size) == (expected, signed), (name, level)


def test_fill_is_zero() -> None:
    """Geometric operations show nothing but the image and black."""
    entries = [reference_entries(name, 32)[61] for name in GEOMETRIC]  # the largest RandAugment magnitude
    out = run_entries(torch.full((5, 3, 32, 32), 200, dtype=torch.uint8), entries)
    for image in out:
        assert set(image.unique().tolist()) == {0, 200}


# -------------------------------------------------------------------------------- from uniforms to what is done


def test_choose_covers_its_range() -> None:
    """Bounds of the cells, and the ends of the range for every count."""
    assert choose(torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.75, LAST]), 4).tolist() == [0, 0, 1, 2, 3, 3]
    for count in range(1, 300):
        assert choose(torch.tensor([0.0, LAST]), count).tolist() == [0, count - 1]


@pytest.mark.parametrize("m", [0, 10, 17, 30])
@pytest.mark.parametrize("size", [8, 32])
def test_rand_pairs_of_operations(m: int, size: int) -> None:
    """All 28 × 28 pairs of operations and signs, through the whole policy, with the crop in the centre."""
    space = transforms.RandAugment()._augmentation_space(31, (size, size))
    choices = []
    for name, (values, signed) in space.items():
        value = float(values[m]) if values.ndim else 0.0
        choices += [(name, value), (name, -value if signed else value)]
    middle = (torch.arange(28) + 0.5) / 28  # operation and sign as one number
    columns = torch.stack([(middle * 14).floor().add(0.5) / 14, middle * 14 % 1], dim=1)
    pairs = torch.cartesian_prod(torch.arange(28), torch.arange(28))[:: 1 if m == 10 else 7]
    u = torch.cat([torch.tensor([0.5, 0.5, 0.9]).expand(len(pairs), 3), columns[pairs].flatten(1)], dim=1)
    images = make_images(len(pairs), size)
    out = build("rand", AugmentationConfig(n=2, m=m), size=size)(images, u)
    for image, pair, result in zip(images, pairs.tolist(), out, strict=True):
        expected = reference_op(reference_op(image, *choices[pair[0]]), *choices[pair[1]])
        assert torch.equal(result, expected), [choices[i] for i in pair]


class FixedAutoAugment(transforms.AutoAugment):
    """torchvision's AutoAugment with given draws in place of its random ones."""

    drawn: tuple[int, Tensor, Tensor]

    def get_params(self, transform_num: int) -> tuple[int, Tensor, Tensor]:
        """Return the given draws."""
        assert transform_num == 25
        return self.drawn


@pytest.mark.parametrize("size", [8, 16, 32, 64])
def test_auto_equals_torchvision_given_its_draws(size: int) -> None:
    """Every sub-policy, 4 × 4 combinations of use and sign and random ones, with uniforms on the probabilities."""
    reference = FixedAutoAugment(CIFAR10)
    grid = torch.cartesian_prod(torch.arange(25), *[torch.arange(2)] * 4)
    p = torch.tensor([[use[1] for use in policy] for policy in reference.policies])[grid[:, 0]]
    used = torch.where(grid[:, 1:3] == 1, p, p + 1e-6)  # equal to the probability is in, just above is out
    given = torch.cat([(grid[:, :1] + 0.5) / 25, used, (grid[:, 3:] + 0.5) / 2], dim=1)
    stage = torch.cat([given, torch.rand(400, 5, generator=generator(3))])
    u = torch.cat([torch.tensor([0.5, 0.5, 0.9]).expand(len(stage), 3), stage], dim=1)
    images = make_images(len(u), size)
    out = build("auto", AugmentationConfig(cutout=0), size=size)(images, u)
    changed = 0
    for image, draw, result in zip(images, stage, out, strict=True):
        reference.drawn = int(draw[0] * 25), draw[1:3], (draw[3:] * 2).long()
        expected = reference(image)
        assert torch.equal(result, expected), reference.drawn
        changed += not torch.equal(expected, image)
    assert changed > len(u) / 3


def test_auto_has_the_sub_policies_of_the_paper() -> None:
    """Some lines of Table 7 of AutoAugment, operation, probability and magnitude, and the number of lines."""
    policies = AutoAugment.policies
    assert len(policies) == 25
    assert policies[0] == (("Invert", 0.1, None), ("Contrast", 0.2, 6))
    assert policies[3] == (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9))
    assert policies[24] == (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None))


@pytest.mark.parametrize(("stored", "size"), [(8, 8), (16, 16), (32, 32), (64, 64), (20, 16), (12, 8)])
def test_sim_against_brute_force(stored: int, size: int) -> None:
    """The window and the flip that the uniforms name, cut with NumPy."""
    images = make_images(200, stored)
    u = torch.rand(200, 3, generator=generator(4))
    padding = max(1, round(4 * size / 32)) if stored == size else 0
    places = stored + 2 * padding - size + 1
    out = build("sim", AugmentationConfig(), size=size)(images, u)
    for image, (a, b, c), result in zip(images.numpy(), u.tolist(), out.numpy(), strict=True):
        padded = np.pad(image, [(0, 0), (padding, padding), (padding, padding)])
        top, left = int(a * places), int(b * places)
        window = padded[:, top : top + size, left : left + size]
        assert np.array_equal(result, window[:, :, ::-1] if c < 0.5 else window)


# ------------------------------------------------------------------------------------------------- frequencies


def histogram(images: Iterable[Tensor]) -> Counter[bytes]:
    """Count the distinct images."""
    return Counter(image.numpy().tobytes() for image in images)


def two_sample_p(a: Counter[bytes], b: Counter[bytes]) -> float:
    """Return the p-value of a chi-square test that two histograms have one distribution; rare cells are pooled."""
    cells = np.array([[a[key], b[key]] for key in a.keys() | b.keys()])
    rare = cells.sum(axis=1) < 20
    rows = cells[~rare]
    if cells[rare].sum() >= 20:
        rows = np.vstack([rows, cells[rare].sum(axis=0)])
    assert len(rows) > 1
    return float(stats.chi2_contingency(rows).pvalue)


def run_policy(policy: Callable[[Tensor, Tensor], Tensor], image: Tensor, u: Tensor) -> Counter[bytes]:
    """Augment one image once for each row of the uniforms and count the distinct results."""
    return histogram(policy(image.expand(len(u), -1, -1, -1), u))


def test_sim_frequencies() -> None:
    """81 windows and a flip: like torchvision's, and uniform."""
    image = torch.randint(1, 256, (3, 32, 32), dtype=torch.uint8, generator=generator(5))
    u = torch.rand(8000, 3, generator=generator(6))
    ours = run_policy(build("sim", AugmentationConfig(), size=32), image, u)
    reference = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()])
    torch.manual_seed(7)
    theirs = histogram(reference(image) for _ in range(8000))
    assert len(ours) == len(theirs) == 162
    assert two_sample_p(ours, theirs) > 1e-3
    assert stats.chisquare(list(ours.values())).pvalue > 1e-3
    biased = run_policy(build("sim", AugmentationConfig(), size=32), image, u**1.3)
    assert two_sample_p(biased, theirs) < 1e-6  # the test would notice


def test_sim_frequencies_on_larger_images() -> None:
    """25 windows out of a larger image and a flip."""
    image = torch.randint(1, 256, (3, 20, 20), dtype=torch.uint8, generator=generator(8))
    counts = run_policy(build("sim", AugmentationConfig(), size=16), image, torch.rand(4000, 3, generator=generator(9)))
    assert len(counts) == 50
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_rand_frequencies() -> None:
    """14 operations and signs as torchvision draws them; a small bias would be noticed."""
    image = make_images(1, 16)[0]
    u = torch.rand(4000, 2, generator=generator(10))
    policy = Chain((RandAugment(1, 10),))
    ours = run_policy(policy, image, u)
    reference = transforms.RandAugment(num_ops=1, magnitude=10)
    torch.manual_seed(11)
    theirs = histogram(reference(image) for _ in range(4000))
    assert ours.keys() == theirs.keys()
    assert len(ours) == 14 + 9  # the identity, 9 operations of two signs and 4 without
    assert two_sample_p(ours, theirs) > 1e-3
    for column in range(2):  # the operation, the sign
        biased = u.clone()
        biased[:, column] **= 1.3
        assert two_sample_p(run_policy(policy, image, biased), theirs) < 1e-4
    assert two_sample_p(run_policy(Chain((RandAugment(1, 11),)), image, u), theirs) < 1e-6


def test_rand_frequencies_of_two_operations() -> None:
    """The two operations of one image are independent."""
    u = torch.rand(30_000, 4, generator=generator(12))
    image = make_images(1, 8)[0]
    ours = run_policy(Chain((RandAugment(2, 10),)), image, u)
    reference = transforms.RandAugment(num_ops=2, magnitude=10)
    torch.manual_seed(13)
    theirs = histogram(reference(image) for _ in range(6000))
    assert two_sample_p(ours, theirs) > 1e-3
    u[:, 2:] = u[:, :2]
    assert two_sample_p(run_policy(Chain((RandAugment(2, 10),)), image, u), theirs) < 1e-6


def test_auto_frequencies() -> None:
    """25 sub-policies, their probabilities and signs as torchvision draws them; a small bias would be noticed."""
    image = make_images(1, 16)[0]
    u = torch.rand(8000, 5, generator=generator(14))
    policy = Chain((AutoAugment(),))
    ours = run_policy(policy, image, u)
    reference = transforms.AutoAugment(CIFAR10)
    torch.manual_seed(15)
    theirs = histogram(reference(image) for _ in range(8000))
    assert two_sample_p(ours, theirs) > 1e-3
    for column in range(5):  # sub-policy, two uses, two signs
        biased = u.clone()
        biased[:, column] **= 1.5
        assert two_sample_p(run_policy(policy, image, biased), theirs) < 1e-4, column


def test_cutout_frequencies() -> None:
    """Every pixel is the centre equally often."""
    u = torch.rand(20_000, 2, generator=generator(16))
    counts = run_policy(Cutout(4), torch.full((3, 8, 8), 255, dtype=torch.uint8), u)
    # 8 px, half 2: rows 0..7 give 8 different strips, so 64 centres give 64 different images.
    assert len(counts) == 64
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


# ------------------------------------------------------------------------------------------------------ Cutout


def brute_force_cutout(image: np.ndarray, y: int, x: int, length: int) -> np.ndarray:
    """Cut one image as the authors' code does, https://github.com/uoguelph-mlrg/Cutout."""
    height, width = image.shape[-2:]
    mask = np.ones((height, width), np.uint8)
    y1, y2 = np.clip(y - length // 2, 0, height), np.clip(y + length // 2, 0, height)
    x1, x2 = np.clip(x - length // 2, 0, width), np.clip(x + length // 2, 0, width)
    mask[y1:y2, x1:x2] = 0
    return image * mask


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 16, 40])
def test_cutout_against_brute_force(length: int) -> None:
    """Every centre of a small image, which need not be square."""
    centres = torch.cartesian_prod(torch.arange(8), torch.arange(11))
    images = torch.randint(1, 256, (88, 3, 8, 11), dtype=torch.uint8, generator=generator(17))
    out = cutout(images, centres[:, 0], centres[:, 1], length)
    for image, (y, x), result in zip(images.numpy(), centres.tolist(), out.numpy(), strict=True):
        assert np.array_equal(result, brute_force_cutout(image, y, x, length))


@pytest.mark.parametrize(("name", "size", "asked", "side"), [
    ("auto", 32, None, 16), ("auto", 64, None, 32), ("auto", 8, None, 4), ("auto", 224, None, 112), ("auto", 32, 8, 8),
    ("auto", 32, 0, 0), ("sim", 32, 12, 12), ("rand", 32, 12, 12), ("none", 32, 6, 6),
    ("sim", 32, None, 0), ("rand", 32, 0, 0),
])  # fmt: skip
def test_cutout_of_the_policies(name: str, size: int, asked: int | None, side: int) -> None:
    """A white image, centred, that no operation changes, loses the square that the last two uniforms name."""
    policy = build(name, AugmentationConfig(cutout=asked), size=size)
    centres = torch.rand(20, 2, generator=generator(18))
    before = {"auto": [0.5, 0.5, 0.9, 0.5, LAST, LAST, 0, 0], "rand": [0.5, 0.5, 0.9, 0, 0, 0, 0]}
    head = torch.tensor(before.get(name, [] if name == "none" else [0.5, 0.5, 0.9])).expand(20, -1)
    u = torch.cat([head, centres], dim=1) if side else head
    assert policy.draws == u.shape[1]
    white = torch.full((20, 3, size, size), 255, dtype=torch.uint8)
    out = policy(white, u).numpy()
    for image, (a, b), result in zip(white.numpy(), centres.tolist(), out, strict=True):
        assert np.array_equal(result, brute_force_cutout(image, int(a * size), int(b * size), side))


# -------------------------------------------------------------------------------------------- pure functions


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("name", POLICIES)
def test_result_does_not_depend_on_the_batch(name: str, size: int) -> None:
    """One by one, in other company, in other order: bit for bit the same."""
    policy = build(name, AugmentationConfig(cutout=4), size=size)
    images = make_images(150, size)
    u = torch.rand(150, policy.draws, generator=generator(19))
    whole = policy(images, u)
    order = torch.randperm(150, generator=generator(20))
    assert torch.equal(policy(images[order], u[order]), whole[order])
    assert torch.equal(torch.cat([policy(images[i : i + 7], u[i : i + 7]) for i in range(0, 150, 7)]), whole)
    assert torch.equal(torch.cat([policy(images[i : i + 1], u[i : i + 1]) for i in range(60)]), whole[:60])


@pytest.mark.parametrize("stored", [16, 20])
@pytest.mark.parametrize("name", POLICIES)
def test_input_is_left_alone(name: str, stored: int) -> None:
    """The images and the uniforms stay as they are, and the result shares no memory with them."""
    policy = build(name, AugmentationConfig(), size=16)
    images = make_images(100, stored)
    u = torch.rand(100, policy.draws, generator=generator(21))
    before, drawn = images.clone(), u.clone()
    out = policy(images, u)
    expected = out.clone()
    assert out.dtype == torch.uint8
    assert out.shape == (100, 3, 16, 16)
    assert torch.equal(images, before)
    assert torch.equal(u, drawn)
    out.zero_()
    assert torch.equal(images, before)
    assert torch.equal(policy(images, u), expected)


@pytest.mark.parametrize("name", POLICIES)
def test_strides_do_not_matter(name: str) -> None:
    """Channels-last images and every second image of a batch."""
    policy = build(name, AugmentationConfig(), size=16)
    images = make_images(60, 16)
    u = torch.rand(60, policy.draws, generator=generator(22))
    expected = policy(images, u)
    assert torch.equal(policy(images.to(memory_format=torch.channels_last), u), expected)
    assert torch.equal(policy(images[::2], u[::2]), expected[::2])


@pytest.mark.parametrize("size", [1, 2, 8, 32])
@pytest.mark.parametrize("name", POLICIES)
def test_ends_of_the_range_of_uniforms(name: str, size: int) -> None:
    """Every column at 0 and at the largest float32 below 1, and an empty batch."""
    policy = build(name, AugmentationConfig(), size=size)
    width = policy.draws
    u = torch.cat([torch.zeros(1, width), torch.full((1, width), LAST), torch.eye(width) * LAST])
    assert bool((u < 1).all())
    out = policy(make_images(len(u), size), u)
    assert out.shape == (len(u), 3, size, size)
    assert policy(make_images(5, size)[:0], u[:0]).shape == (0, 3, size, size)


def test_policy_is_a_value() -> None:
    """Policies built alike are equal and hashable; they keep no state between calls."""
    assert build("auto", AugmentationConfig(), size=32) == build("auto", AugmentationConfig(), size=32)
    assert build("rand", AugmentationConfig(m=3), size=32) != build("rand", AugmentationConfig(m=4), size=32)
    assert len({build(name, AugmentationConfig(), size=32) for name in ("sim", "rand", "auto")}) == 3
    assert build("none", AugmentationConfig(), size=32).draws == 0
    assert build("rand", AugmentationConfig(n=0), size=32).draws == 3
    assert torch.equal(
        build("none", AugmentationConfig(), size=32)(make_images(3, 32), torch.empty(3, 0)), make_images(3, 32)
    )


def test_errors() -> None:
    """Wrong names, numbers, types and shapes are refused."""
    with pytest.raises(ValueError, match="none, sim, rand, auto"):
        build("random", AugmentationConfig(), size=32)
    for options in ({"m": 31}, {"m": -1}, {"n": -1}, {"cutout": -1}):
        with pytest.raises(ValueError):
            build("rand", AugmentationConfig(**options), size=32)
    with pytest.raises(ValueError, match="size"):
        build("rand", AugmentationConfig(), size=0)
    sim, images = build("sim", AugmentationConfig(), size=16), make_images(2, 16)
    for wrong, u in (
        (images.float(), torch.rand(2, 3)),
        (images[0], torch.rand(2, 3)),
        (images[:, :1], torch.rand(2, 3)),
        (images, torch.rand(2, 4)),
        (images, torch.rand(1, 3)),
        (images[..., 1:], torch.rand(2, 3)),
    ):
        with pytest.raises(ValueError):
            sim(wrong, u)
    with pytest.raises(ValueError):
        center_crop(images, 17)


# ----------------------------------------------------------------------------------------- other functions


@pytest.mark.parametrize(("stored", "size"), [(16, 16), (16, 15), (16, 8), (17, 8), (20, 13), (256, 224)])
def test_center_crop(stored: int, size: int) -> None:
    """As torchvision's transform; the images themselves where nothing is to be cut."""
    images = make_images(3, stored)
    out = center_crop(images, size)
    assert torch.equal(out, torch.stack([transforms.CenterCrop(size)(image) for image in images]))
    assert (out is images) == (stored == size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize(dtype: torch.dtype) -> None:
    """As ToTensor and Normalize; in the type asked for, channels last; without a trace on the images."""
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    images = make_images(6, 8)
    before = images.clone()
    out = normalize(images, mean, std, dtype=dtype)
    expected = functional.normalize(images.double() / 255, mean, std)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 1e-2}[dtype]
    assert torch.allclose(out.double(), expected, rtol=tolerance, atol=tolerance)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    looked_up = normalize_by_table(images, mean, std, dtype=dtype)
    assert torch.equal(looked_up, out) and looked_up.stride() == out.stride() and looked_up.dtype == dtype
    assert torch.equal(images, before)
