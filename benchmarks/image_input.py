"""Large images from disk to a normalised batch: from files, a pack and a map, against a DataLoader and decoding alone."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks import large_sets
from benchmarks.measure import Row, Spread, interleaved, rates, ratios, usable_cpus
from trainables import trained
from trainables.batches import Feed
from trainables.config import TrialConfig
from trainables.data import read_source
from trainables.data.kept import Kept
from trainables.data.longtail import split
from trainables.data.on_disk import MappedImages, Rows
from trainables.parallel import Parallel

TITLE = "Image input"
IMAGES, BATCH = 1024, 64
PEER, DECODE = 1.0, 0.9
SHARED = 1.25
START_SECONDS = 60.0
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Pictures(Dataset[tuple[Tensor, int]]):
    """As usual training scripts have it."""

    def __init__(self, folder: Path, paths: list[str]) -> None:
        self.folder, self.paths = folder, paths
        self.transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(256),
                transforms.RandomCrop(224),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        with Image.open(self.folder / self.paths[number]) as image:
            return self.transform(image.convert("RGB")), number


def run(quick: bool) -> list[Row]:
    torch.set_num_threads(1)  # a trial that holds one CPU, as they do by default; images are decoded by all cores
    found = large_sets.caltech()
    if not found:
        return [Row("skipped", note="no caltech101/*.parquet below LTSEARCH_DATA")]
    number = 256 if quick else IMAGES
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        large_sets.write(root, "imagenet_lt", large_sets.photographs(_every_class(found, number + 102)), 102)
        rows = _throughput(root, number, 1 if quick else 5)
    with tempfile.TemporaryDirectory() as name:
        rows += _start(Path(name), [content for content, _ in found[:500]], quick)
    return rows


def _every_class(images: list[tuple[bytes, int]], number: int) -> list[tuple[bytes, int]]:
    """So many images, one of every class at the beginning and at the end."""
    first = list({label: (content, label) for content, label in reversed(images)}.values())
    return [*first, *images[: number - 2 * len(first)], *first][:number]


def _throughput(root: Path, number: int, rounds: int) -> list[Row]:
    config = TrialConfig.model_validate(
        {
            "data": {
                "name": "imagenet_lt",
                "image_size": 224,
                "store_size": 256,
                "aspect": "keep",
                "imbalance": {"profile": "natural"},
            },
            "model": {"backbone": "resnet10"},
            "method": {"name": "ce"},
            "training": {"batch_size": BATCH},
        }
    )
    folder = root / "imagenet_lt"
    paths = [line.rpartition(" ")[0] for line in (folder / "ImageNet_LT_train.txt").read_text().splitlines()]

    def feed(images: Kept) -> Feed:
        data = split(config.data, read_source(config.data, root, images))
        _, method = trained.assemble(config, torch.from_numpy(data.class_counts), None)
        return Feed(config, data, torch.device("cpu"), Parallel(), method)

    def epoch(source: Feed) -> int:
        return sum(len(batch.labels) for _, batch in source.batches(source.steps(0), 0))

    def peer() -> int:
        loader = DataLoader(_Pictures(folder, paths), BATCH, shuffle=True, num_workers=usable_cpus(), drop_last=True)
        return sum(len(numbers) for _, numbers in loader)

    def read(source: Feed) -> int:
        """Pixels as they go to the device."""
        assert isinstance(source.images, Rows)
        return sum(
            len(source.images[numbers]) for numbers in np.array_split(np.arange(len(paths)), len(paths) // BATCH)
        )

    def decode() -> int:
        """To the square that is kept, which the peer and we both do."""
        shown = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(256)])

        def one(path: str) -> int:
            with Image.open(folder / path) as image:
                return len(shown(image.convert("RGB")).getbands())

        with ThreadPoolExecutor(usable_cpus()) as pool:
            return len(list(pool.map(one, paths)))

    shared = _shared(config, root)  # before this process itself has looked at them
    feeds = {images: feed(images) for images in ("files", "pack", "map")}
    ours = {images: lambda source=source: epoch(source) for images, source in feeds.items()}
    reads = {
        f"read {images}": lambda source=source: read(source) for images, source in feeds.items() if images != "map"
    }
    seconds = interleaved({"peer": peer, "decode": decode, **ours, **reads}, rounds)
    seen = len(paths) // BATCH * BATCH
    rows = []
    for name in ("files", "pack"):
        share = ratios(seconds["decode"], seconds[f"read {name}"])
        rows.append(
            Row(
                f"pixels from the {name}; decoding to 256 × 256 alone (Pillow, a thread a core)",
                "images/s",
                rates(len(paths), seconds[f"read {name}"]),
                rates(len(paths), seconds["decode"]),
                share,
                f"≥ {DECODE:g}",
                share.median >= DECODE,
            )
        )
    for name in feeds:
        ratio = ratios(seconds["peer"], seconds[name])
        rows.append(
            Row(
                f"normalised batches from the {name}; DataLoader with torchvision",
                "images/s",
                rates(seen, seconds[name]),
                rates(seen, seconds["peer"]),
                ratio,
                f"≥ {PEER:g}",
                ratio.median >= PEER,
            )
        )
    return rows + shared


def _shared(config: TrialConfig, root: Path) -> list[Row]:
    """What three processes that read all images hold of them, against one: their proportional set sizes."""
    context = multiprocessing.get_context("spawn")
    found = []
    ways: tuple[Kept, ...] = ("pack", "map")
    for images in ways:
        rows = split(config.data, read_source(config.data, root, images)).train.images
        assert isinstance(rows, Rows)
        held = {}
        for number in (1, 3):
            with context.Pool(number, initializer=_meet, initargs=(context.Barrier(number),)) as pool:
                held[number] = sum(pool.map(_held, [rows] * number, chunksize=1))
        found.append(
            Row(
                f"the {images}: held by three processes over held by one",
                "MB",
                Spread(*[held[3] / 2**20] * 3),
                Spread(*[held[1] / 2**20] * 3),
                Spread(*[held[3] / held[1]] * 3),
                f"≤ {SHARED:g}",
                held[3] / held[1] <= SHARED,
                "mapped pages, each by its share (PSS)",
            )
        )
    return found


_barrier: Any = None


def _meet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _held(rows: Rows) -> int:
    """Bytes of mapped images that this process holds once all have touched every image, each page by its share."""
    for number in range(len(rows)):
        if isinstance(rows.images, MappedImages):
            rows.images[number].sum()
        else:
            rows.images.contents.content(number)
    _barrier.wait()
    held, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            ours = line.endswith((".npy", ".arrow"))
        elif ours and line.startswith("Pss:"):
            held += int(line.split()[1]) * 1024
    _barrier.wait()
    return held


def _start(root: Path, jpegs: list[bytes], quick: bool) -> list[Row]:
    """iNaturalist's lists: until the first batch, by whoever reads them for all trials."""
    started = time.perf_counter()
    if quick:
        return []
    large_sets.inaturalist(root, jpegs)
    made = time.perf_counter() - started
    config = TrialConfig.model_validate(
        {
            "data": {
                "name": "inaturalist2018",
                "image_size": 56,
                "store_size": 64,
                "imbalance": {"profile": "natural"},
            },
            "method": {"name": "ce"},
            "model": {"backbone": "resnet10"},
        }
    )
    started = time.perf_counter()
    data = split(config.data, read_source(config.data, root, "files"))
    _, method = trained.assemble(config, torch.from_numpy(data.class_counts), None)
    source = Feed(config, data, torch.device("cpu"), Parallel(), method)
    steps = source.steps(0)
    next(iter(source.batches(steps[:2], 0)))
    seconds = time.perf_counter() - started
    once = Spread(seconds, seconds, seconds)
    note = f"{len(data.train.labels):,} training images, {len(data.class_counts):,} classes; made in {made:.0f} s"
    return [
        Row(
            "iNaturalist's lists, from files: to the first batch",
            "s",
            once,
            target=f"≤ {START_SECONDS:g}",
            met=seconds <= START_SECONDS,
            note=note,
        )
    ]
