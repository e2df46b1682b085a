"""Whole sweeps over a set that stays on disk: the same numbers however images are kept, and what a broken one does."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.ltsearch.helpers import sweep, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SIZE = 32


def photograph(label: int, number: int) -> bytes:
    """A JPEG of 60 × 44 pixels or so: a disc, a square or a cross, somewhere."""
    random = np.random.default_rng([label, number])
    image = Image.fromarray(random.integers(0, 120, (44 + number % 7, 60, 3), np.uint8))
    x, y = (int(v) for v in random.integers(8, 28, 2))
    draw = ImageDraw.Draw(image)
    if label == 0:
        draw.ellipse((x, y, x + 14, y + 14), fill=(250, 250, 250))
    elif label == 1:
        draw.rectangle((x, y, x + 14, y + 14), fill=(250, 250, 250))
    else:
        draw.line((x, y, x + 14, y + 14), fill=(250, 250, 250), width=3)
        draw.line((x, y + 14, x + 14, y), fill=(250, 250, 250), width=3)
    content = io.BytesIO()
    image.save(content, "JPEG", quality=92)
    return content.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "imagenet_lt"
    for part, counts in (("train", (40, 16, 8)), ("test", (8, 8, 8)), ("val", (2, 2, 2))):
        lines = []
        for label, count in enumerate(counts):
            for number in range(count):
                path = Path(part) / str(label) / f"{number}.jpg"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(photograph(label, number + 100 * len(part)))
                lines.append(f"{path} {label}\n")
        (root / f"ImageNet_LT_{part}.txt").write_text("".join(lines))
    return root.parent


def large(images: str) -> dict[str, Any]:
    return {
        "name": "large",
        "question": "The same numbers however images are kept?",
        "base": {
            "data": {
                "name": "imagenet_lt",
                "image_size": SIZE,
                "store_size": 40,
                "aspect": "keep",
                "imbalance": {"profile": "natural"},
            },
            "augmentation": {"policy": "rand", "copies": 2, "crop": "random_resized_crop", "color_jitter": 0.4},
            "model": {"backbone": "resnet8", "experts": 2, "classifier": "cosine"},
            "method": {"name": "ncl_pp"},
            "training": {"epochs": 3, "batch_size": 16},
        },
        "seeds": 1,
        "ablation": {"reference": "base", "rows": [{"name": "base"}]},
        "resources": {"workers": 2, "cpus_per_worker": 0.5, "images": images},
    }


def records(folder: Path) -> list[CellRecord]:
    store = CellStore(folder / "store")
    return [record for cell in store.cells() if (record := store.read(cell)) is not None]


def numbers(folder: Path) -> list[dict[str, float]]:
    """What the only cell of a folder's store reports, but for times and memory."""
    (record,) = records(folder)
    assert record.status == "finished"
    timed = ("second", "memory", "parallel/")
    return [{k: v for k, v in epoch.metrics.items() if not any(t in k for t in timed)} for epoch in record.history]


def test_the_same_numbers_however_images_are_kept(tmp_path: Path, data: Path) -> None:
    """Read by two workers from files, and from a pack; every layout and way in one process: tests/trainables/test_kept.py."""
    found = []
    for images in ("files", "pack"):
        folder = tmp_path / images
        folder.mkdir()
        done = sweep(folder, str(write(folder, large(images))), "--local", "--data-root", str(data))
        assert done.returncode == 0, done.stdout + done.stderr
        found.append(numbers(folder))
    assert found[0] == found[1]
    losses = [epoch["train/loss"] for epoch in found[0]]
    assert len(losses) == 3 and losses[-1] < losses[0]


def test_a_broken_image_ends_the_trial_by_its_name_and_skipping_goes_on(tmp_path: Path, data: Path) -> None:
    broken = data / "imagenet_lt" / "train" / "1" / "3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    tree = large("files")
    tree["resources"]["max_failures"] = 0  # it would fail again
    tree["ablation"] = {"rows": [{"name": "stops"}, {"name": "skips", "set": {"data.unreadable": "skip"}}]}
    done = sweep(tmp_path, str(write(tmp_path, tree)), "--local", "--data-root", str(data))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{broken}: not a readable image" in done.stdout + done.stderr
    states = {record.config["data"]["unreadable"]: record for record in records(tmp_path)}
    assert {name: str(record.status) for name, record in states.items()} == {"stop": "failed", "skip": "finished"}
    assert len(states["skip"].history) == 3
