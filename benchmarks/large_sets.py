"""Sets in the published layout of the large ones, made of real images: those of Caltech-101, which LTSEARCH_DATA leads to."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from trainables.data.lists import LISTS

INATURALIST = (437_513, 24_426, 8_142)  # training and validation images, and classes, of iNaturalist 2018


def caltech() -> list[tuple[bytes, int]]:
    """Encoded images and labels; empty if they are not there."""
    folder = Path(os.environ.get("LTSEARCH_DATA", "data")) / "caltech101"
    return [pair for file in sorted(folder.rglob("*train*.parquet")) for pair in _rows(file)]


def _rows(file: Path) -> Iterator[tuple[bytes, int]]:
    table = pq.read_table(file)
    for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True):
        yield image["bytes"], label


def photographs(images: list[tuple[bytes, int]], size: tuple[int, int] = (500, 375)) -> list[tuple[bytes, int]]:
    """The same enlarged to the size of ImageNet's and written as JPEGs again, for what takes its time by the pixel."""
    found = []
    for content, label in images:
        with Image.open(io.BytesIO(content)) as image:
            buffer = io.BytesIO()
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        found.append((buffer.getvalue(), label))
    return found


def write(root: Path, name: str, images: list[tuple[bytes, int]], test: int) -> None:
    """``<root>/<name>/`` with a file an image and the published lists; the last ``test`` images are the test set."""
    folder, lists = root / name, LISTS[name]
    lines = []
    for number, (content, label) in enumerate(images):
        path = Path("images") / f"{label:04d}" / f"{number:06d}.jpg"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        lines.append(f"{path} {label}\n")
    parts = {lists.train: lines[:-test], lists.test: lines[-test:], lists.validation: lines[-test:]}
    for file, part in parts.items():
        if file is not None:
            (folder / file).write_text("".join(part))


def inaturalist(root: Path, jpegs: list[bytes]) -> None:
    """iNaturalist 2018 in size and form: as many list lines and classes, whose files are links to a few real JPEGs."""
    folder, (train, test, classes) = root / "inaturalist2018", INATURALIST
    (folder / "jpegs").mkdir(parents=True)
    files = []
    for number, content in enumerate(jpegs):
        files.append(folder / "jpegs" / f"{number:06d}.jpg")
        files[-1].write_bytes(content)
    # Long-tailed as the original is: 1,000 down to 2 images, and as many in all.
    counts = np.maximum(2, 1000 * np.exp(-np.arange(classes) * np.log(500) / 1150)).astype(int)
    counts[: (train - counts.sum()) % classes] += 1
    labels = np.repeat(np.arange(classes), counts)
    labels = np.concatenate([labels, np.arange(train - len(labels)) % classes])[:train]
    for name, chosen in (("train", labels), ("val", np.repeat(np.arange(classes), test // classes))):
        lines = []
        for number, (label, file) in enumerate(zip(chosen.tolist(), islice(cycle(files), len(chosen)), strict=True)):
            path = f"{name}/{label:04d}/{number:06d}.jpg"
            place = folder / path
            if number == 0 or not place.parent.is_dir():
                place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)
            lines.append(f"{path} {label}\n")
        (folder / (LISTS["inaturalist2018"].train if name == "train" else LISTS["inaturalist2018"].test)).write_text(
            "".join(lines)
        )
