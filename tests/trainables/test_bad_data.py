"""Data that would give wrong numbers in silence, or that cannot be read: refused, with what is wrong and the way out."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.permissions import another_user, public_folder
from tests.trainables.test_data import parquet, png, read_parquet
from trainables.config import DataConfig
from trainables.data import read_source
from trainables.data.source import decode
from trainables.errors import DataError


def folder_set(root: Path, *names: str) -> DataConfig:
    """An image folder with one image a class and split."""
    for part in ("train", "test"):
        for value, name in enumerate(names):
            (root / "set" / part / name).mkdir(parents=True)
            (root / "set" / part / name / "x.png").write_bytes(png(value))
    return DataConfig(name="folder", path="set")


def test_class_names_in_another_order(tmp_path: Path) -> None:
    """Every file's names count: labels of the second would have been taken for those of the first."""
    parquet(tmp_path / "set", "train", [png(1), png(2)], [0, 1], classes=["cat", "dog"])
    parquet(tmp_path / "set", "test", [png(1)], [1], classes=["dog", "cat"])
    first = tmp_path / "set" / "train-00000-of-00001.parquet"
    with pytest.raises(
        DataError,
        match=rf"test-.*\.parquet: its class names differ from those of {first}: label 0 is 'dog' here and 'cat' in .*; "
        "write every file with the same names in the same order",
    ):
        read_parquet(tmp_path)
    parquet(tmp_path / "set", "test", [png(1)], [1], classes=["cat", "dog", "cow"])
    with pytest.raises(DataError, match=r"its class names differ from those of .*: 3 here and 2 there"):
        read_parquet(tmp_path)
    parquet(tmp_path / "set", "test", [png(1)], [1], classes=["cat", "dog"])
    parquet(tmp_path / "set", "validation", [png(1)], [1], classes=["cat", "cow"])
    with pytest.raises(DataError, match=r"validation-.*label 1 is 'cow' here and 'dog' in"):
        read_parquet(tmp_path)


def test_class_names_with_gaps(tmp_path: Path) -> None:
    parquet(tmp_path / "set", "train", [png(1)] * 3, [0, 1, 2], classes={"0": "cat", "2": "dog", "10": "cow"})
    parquet(tmp_path / "set", "test", [png(1)], [1])
    with pytest.raises(
        DataError,
        match=r"train-.*the class names of 'kind' .* are numbered 0, 2, 10: a label would get the name of another class; "
        r"number the 3 names 0\.\.2 without gaps",
    ):
        read_parquet(tmp_path)


def encoded(values: Any, mode: str | None = None, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_16_bits_are_scaled_to_8(kind: str) -> None:
    values = np.array([[0, 127, 128, 129], [257, 32_767, 32_768, 65_535]], np.uint16)
    pixels = decode(encoded(values, kind=kind), None, "x.png")
    assert pixels.shape == (3, 2, 4)
    assert (pixels == np.round(values / 257).astype(np.uint8)).all()
    spread = np.linspace(0, 65_535, 4096).astype(np.uint16).reshape(64, 64)
    assert (decode(encoded(spread, kind=kind), None, "x") == 255).mean() < 0.01


def test_16_bit_pgm_is_scaled_too() -> None:
    content = b"P5 2 1 65535 " + np.array([[257 * 3, 257 * 200]], ">u2").tobytes()
    assert decode(content, None, "x.pgm")[0].tolist() == [[3, 200]]


@pytest.mark.parametrize(
    ("values", "said"),
    [(np.ones((4, 4), np.float32), "floating-point numbers"), (np.ones((4, 4), np.int32), "32-bit whole numbers")],
)
def test_values_of_which_nothing_says_what_is_white(values: Any, said: str, tmp_path: Path) -> None:
    config = folder_set(tmp_path, "a", "b")
    file = tmp_path / "set" / "train" / "a" / "y.tif"
    file.write_bytes(encoded(values, kind="TIFF"))
    with pytest.raises(
        DataError, match=f"{file}: its pixels are {said} .*of which nothing says what is white; convert it"
    ):
        read_source(config, tmp_path)


def test_8_bit_images_are_what_they_were() -> None:
    random = np.random.default_rng(0)
    grey, colour = random.integers(0, 256, (8, 8), np.uint8), random.integers(0, 256, (8, 8, 3), np.uint8)
    assert (decode(encoded(grey), None, "x") == grey).all()
    assert (decode(encoded(colour), None, "x") == colour.transpose(2, 0, 1)).all()
    assert decode(encoded(grey > 128, "1"), None, "x").max() == 255


@pytest.mark.parametrize("closed", ["train/b", "train", "test"])
def test_a_class_folder_that_may_not_be_read(closed: str) -> None:
    with public_folder() as root:
        config = folder_set(root, "a", "b")
        place = root / "set" / closed
        place.chmod(0)
        with another_user(), pytest.raises(DataError) as refused:
            read_source(config, root)
        place.chmod(0o755)
    assert f"{place}" in str(refused.value)
    assert (
        "is unreadable (Permission denied); make it readable (`chmod -R u+rX` as its owner), or name another data root"
        in str(refused.value)
    )
    assert "no images" not in str(refused.value)


def test_a_parquet_folder_that_may_not_be_read() -> None:
    with public_folder() as root:
        parquet(root / "set" / "more", "train", [png(1), png(2)], [0, 1])
        parquet(root / "set", "train", [png(1), png(2)], [0, 1])
        parquet(root / "set", "test", [png(1)], [1])
        (root / "set" / "more").chmod(0)
        with another_user(), pytest.raises(DataError, match=f"set: {root}/set/more is unreadable .Permission denied."):
            read_parquet(root)
        (root / "set" / "more").chmod(0o755)


def test_class_folders_whose_names_are_not_utf8(tmp_path: Path) -> None:
    config = folder_set(tmp_path, "a", os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match=r"set: the class name b'caf\\xe9' is not UTF-8.*rename it"):
        read_source(config, tmp_path)
