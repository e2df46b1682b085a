"""``data.draft``: JPEGs decoded at a fraction of their size, as libjpeg does, and against the whole picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from trainables.config import DataConfig
from trainables.data import read_source
from trainables.data.source import decode
from trainables.errors import DataError

SIZES = ((300, 200), (64, 48), (41, 90), (20, 24))  # width, height: by 20 an eighth would be too small of each


def content(number: int, form: str = "JPEG") -> bytes:
    """A smooth picture, which a JPEG keeps well."""
    width, height = SIZES[number]
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([x, y, np.full_like(x, 0.3 + 0.1 * number)], -1) * 255
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, form, quality=98)
    return stream.getvalue()


def config(**over: Any) -> DataConfig:
    base = {"name": "imagenet_lt", "image_size": 20, "imbalance": {"profile": "natural"}, "draft": True}
    return DataConfig.model_validate(base | over)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "imagenet_lt"
    folder.mkdir()
    lines = []
    for number in range(len(SIZES)):
        (folder / f"{number}.jpg").write_bytes(content(number))
        lines.append(f"{number}.jpg {number % 2}\n")
    for part in ("train", "val", "test"):
        (folder / f"ImageNet_LT_{part}.txt").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize(("number", "scale"), [(0, 8), (1, 2), (2, 2), (3, 1)])
def test_a_fraction_that_still_has_the_pixels(number: int, scale: int) -> None:
    """The smallest of libjpeg's fractions whose both sides are at least the size; then resized as any picture."""
    width, height = SIZES[number]
    with Image.open(io.BytesIO(content(number))) as image:
        image.draft("RGB", (width // scale, height // scale))
        assert image.size == (-(-width // scale), -(-height // scale)) and min(image.size) >= 20
        want = np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    found = decode(content(number), config().resize, "here")
    assert np.array_equal(found, want)
    whole = decode(content(number), config(draft=False).resize, "here")
    assert np.abs(found.astype(int) - whole).max() <= 8 and np.array_equal(found, whole) == (scale == 1)


@pytest.mark.parametrize("aspect", ["squash", "keep"])
def test_the_same_pixels_however_images_are_kept(root: Path, aspect: str) -> None:
    ways: tuple[Literal["map", "files", "pack"], ...] = ("map", "files", "pack")
    sources = [read_source(config(aspect=aspect), root, images) for images in ways]
    pixels = [source.train.images[:] for source in sources]
    assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
    undrafted = read_source(config(aspect=aspect, draft=False), root)
    assert len({source.fingerprint for source in sources}) == 1 and undrafted.fingerprint != sources[0].fingerprint
    assert not np.array_equal(undrafted.train.images[:], pixels[0])
    names = {folder.name for folder in (root / "imagenet_lt").glob("cache-*")}
    assert names == ({"cache-20-draft", "cache-20"} if aspect == "squash" else {"cache-20-keep-draft", "cache-20-keep"})


def test_only_jpegs_have_fractions(root: Path) -> None:
    assert np.array_equal(
        decode(content(0, "PNG"), config().resize, "here"),
        decode(content(0, "PNG"), config(draft=False).resize, "here"),
    )
    (root / "imagenet_lt" / "0.jpg").write_bytes(content(0)[:300])
    with pytest.raises(DataError, match=r"0\.jpg: not a readable image"):
        read_source(config(), root, "files").train.images[0]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"aspect": "whole"},
            r"data\.draft = True leaves pixels out that the windows of data\.aspect = 'whole' are cut",
        ),
        (
            {"image_size": None},
            r"data\.draft = True says how images are resized: set data\.image_size, or leave it out",
        ),
    ],
)
def test_what_does_not_go_together(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**over)
