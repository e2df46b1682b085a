"""Large images from disk to a normalised batch, from files and from a map, against a DataLoader and against decoding alone."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
from trainables.data.longtail import split
from trainables.parallel import Parallel

TITLE = "Image input"
IMAGES, BATCH = 1024, 64
PEER, DECODE = 1.0, 0.9
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
    found = large_sets.caltech()
    if not found:
        return [Row("skipped", note="no caltech101/*.parquet below LTSEARCH_DATA")]
    number = 128 if quick else IMAGES
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

    def feed(images: str) -> Feed:
        data = split(config.data, read_source(config.data, root, images))
        _, method = trained.assemble(config, torch.from_numpy(data.class_counts), None)
        return Feed(config, data, torch.device("cpu"), Parallel(), method)

    def epoch(source: Feed) -> int:
        return sum(len(batch.labels) for _, batch in source.batches(source.steps(0), 0))

    def peer() -> int:
        loader = DataLoader(_Pictures(folder, paths), BATCH, shuffle=True, num_workers=usable_cpus(), drop_last=True)
        return sum(len(numbers) for _, numbers in loader)

    def decode() -> int:
        def one(path: str) -> int:
            with Image.open(folder / path) as image:
                return len(image.convert("RGB").getbands())

        with ThreadPoolExecutor(usable_cpus()) as pool:
            return len(list(pool.map(one, paths)))

    files, mapped = feed("files"), feed("map")
    seconds = interleaved(
        {"peer": peer, "decode": decode, "files": lambda: epoch(files), "map": lambda: epoch(mapped)}, rounds
    )
    seen = len(paths) // BATCH * BATCH
    rows = [Row("decode alone (Pillow, a thread a core)", "images/s", ours=rates(len(paths), seconds["decode"]))]
    for name, what in (("files", "from files"), ("map", "from the map")):
        ratio = ratios(seconds["peer"], seconds[name])
        note = ""
        if name == "files":
            share = ratios(seconds["decode"], seconds["files"])
            note = f"{share.median * seen / len(paths):.0%} of decode alone, asked for {DECODE:.0%}"
        rows.append(
            Row(
                f"{what}; DataLoader with torchvision",
                "images/s",
                rates(seen, seconds[name]),
                rates(seen, seconds["peer"]),
                ratio,
                f"≥ {PEER:g}",
                ratio.median >= PEER,
                note,
            )
        )
    return rows


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
