"""Sets that stay on disk: as a map, as files and as a pack, from lists, folders and Parquet; what can be wrong with them."""

from __future__ import annotations

import io
import logging
import pickle
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from trainables.config import DataConfig, TrialConfig
from trainables.data import kept, on_disk, read_source
from trainables.data import pack as packs
from trainables.data.longtail import TrialData, split
from trainables.data.on_disk import EncodedImages, MappedImages
from trainables.data.source import Source
from trainables.errors import DataError
from trainables.run_options import RunOptions
from trainables.training import train

Kept = Literal["map", "files", "pack"]
COUNTS = (12, 6, 3)  # images a class


def picture(random: np.random.Generator, label: int, number: int) -> Image.Image:
    """Of a colour and a size of its own."""
    pixels = random.integers(0, 90, (24 + number, 34, 3), np.uint8)
    pixels[..., label] += 120
    return Image.fromarray(pixels)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The same images in the three layouts: published lists, a folder for each class, and Parquet of two row groups a file."""
    random = np.random.default_rng(0)
    lists = tmp_path / "imagenet_lt"
    for part, name, counts in (("train", "train", COUNTS), ("test", "test", (3, 3, 3)), ("val", "val", (2, 2, 2))):
        lines, rows = [], []
        for label, count in enumerate(counts):
            for number in range(count):
                content = io.BytesIO()
                picture(random, label, number).save(content, "JPEG", quality=95)
                path = Path(name) / f"class {label}" / f"{number:03d}.jpg"
                for layout in (lists, tmp_path / "tree"):
                    (layout / path).parent.mkdir(parents=True, exist_ok=True)
                    (layout / path).write_bytes(content.getvalue())
                lines.append(f"{path} {label}\n")
                rows.append({"image": {"bytes": content.getvalue(), "path": None}, "label": label})
        (lists / f"ImageNet_LT_{part}.txt").write_text("".join(lines))
        (tmp_path / "table").mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table" / f"{part}.parquet", row_group_size=8)
    return tmp_path


def config(name: str = "imagenet_lt", **over: Any) -> DataConfig:
    own: dict[str, dict[str, Any]] = {
        "imagenet_lt": {},
        "folder": {"path": "tree", "on_disk": True},
        "parquet": {"path": "table", "on_disk": True},
    }
    sizes = {"image_size": 12, "store_size": 16, "aspect": "keep", "imbalance": {"profile": "natural"}}
    return DataConfig.model_validate({"name": name, **own[name], **sizes, **over})


def trial(data: DataConfig, **over: Any) -> TrialConfig:
    tree = {
        "data": data.model_dump(),
        "model": {"backbone": "resnet8", "experts": 2},
        "augmentation": {"copies": 2, "crop": "random_resized_crop", "color_jitter": 0.4},
        "training": {"epochs": 2, "batch_size": 7},
    }
    return TrialConfig.model_validate(tree | over)


def numbers(config: TrialConfig, source: Source) -> list[dict[str, float]]:
    """What a trial reports, but for times and memory."""
    return [
        {k: v for k, v in report.metrics.items() if "second" not in k and "memory" not in k}
        for report in train(config, split(config.data, source), RunOptions())
    ]


@pytest.mark.parametrize("name", ["imagenet_lt", "folder", "parquet"])
def test_every_way_of_keeping_gives_the_same_pixels_fingerprint_and_numbers(
    root: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several files a pack, and several pieces a file."""
    monkeypatch.setattr(packs, "FILE_BYTES", 6000)
    monkeypatch.setattr(packs, "WRITTEN_BYTES", 2500)
    ways: tuple[Kept, ...] = ("map", "files", "pack") if name != "parquet" else ("map", "pack")
    found = {images: read_source(config(name), root, images) for images in ways}
    folder = root / (config(name).path or name)
    assert len(list((folder / "pack").glob("train-*.arrow"))) > 2 and isinstance(
        found["map"].train.images, MappedImages
    )
    assert len({source.fingerprint for source in found.values()}) == 1
    mapped, *others = found.values()
    for source in others:
        assert (
            source.train.labels == mapped.train.labels
        ).all() and source.train.images.shape == mapped.train.images.shape
        for at in (np.asarray([20, 5, 0, 5]), slice(3, 9), 7, np.asarray([], np.int64)):
            assert np.array_equal(source.train.images[at], mapped.train.images[at])
        assert source.validation is not None and mapped.validation is not None
        assert np.array_equal(source.validation.images[:], mapped.validation.images[:])
    sent = pickle.loads(pickle.dumps(found["pack"].test.images))
    assert np.array_equal(sent[2], mapped.test.images[2]) and len(pickle.dumps(found["pack"].test.images)) < 1000
    told = [numbers(trial(config(name)), source) for source in found.values()]
    assert all(numbers == told[0] for numbers in told)


@pytest.mark.parametrize("name", ["folder", "parquet"])
def test_sets_on_disk_have_the_pixels_of_those_in_memory(root: Path, name: str) -> None:
    inside = read_source(config(name, on_disk=False), root)
    outside = read_source(config(name), root, "pack")
    assert np.array_equal(outside.train.images[:], inside.train.images) and outside.class_names == inside.class_names
    assert (outside.test.labels == inside.test.labels).all()


def test_whole_pictures_give_the_same_numbers_from_files_and_pack(root: Path) -> None:
    whole = trial(config(aspect="whole"))
    files, packed = (read_source(whole.data, root, images) for images in ("files", "pack"))
    found = numbers(whole, files)
    assert found == numbers(whole, packed)
    assert found != numbers(trial(config()), files)  # windows of what was cut off before
    with pytest.raises(DataError, match=r"data\.aspect = whole .* set resources\.images to files or pack"):
        read_source(whole.data, root, "map")
    with pytest.raises(DataError, match=r"data\.aspect = whole"):  # read for a trial of the same sweep that takes a map
        split(whole.data, read_source(config(), root, "map"))


def test_a_pack_needs_its_images_no_more(root: Path) -> None:
    first = read_source(config(), root, "pack")
    for image in (root / "imagenet_lt").rglob("*.jpg"):
        image.unlink()
    again = read_source(config(), root, "pack")
    assert again.fingerprint == first.fingerprint and np.array_equal(again.train.images[:], first.train.images[:])


def test_packing_that_is_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "FILE_BYTES", 3000)
    monkeypatch.setattr(packs, "WRITTEN_BYTES", 1500)
    read = on_disk.Files.content
    looked: list[int] = []

    def killed(files: on_disk.Files, number: int) -> bytes:
        looked.append(number)
        if len(looked) == 12:
            raise KeyboardInterrupt
        return read(files, number)

    monkeypatch.setattr(on_disk.Files, "content", killed)
    with pytest.raises(KeyboardInterrupt):
        read_source(config(), root, "pack")
    there = sum(packs._open(file).num_rows for file in (root / "imagenet_lt" / "pack").glob("train-*.arrow"))
    assert 0 < there < 12 and list((root / "imagenet_lt" / "pack").glob("train-*.part"))
    looked.clear()
    monkeypatch.setattr(on_disk.Files, "content", lambda files, number: looked.append(number) or read(files, number))
    packed = read_source(config(), root, "pack")
    assert looked[: 21 - there] == list(range(there, 21)) and not list(root.rglob("*.part"))
    assert np.array_equal(packed.train.images[:], read_source(config(), root, "files").train.images[:])


def test_a_pack_of_other_images_is_refused(root: Path) -> None:
    read_source(config(), root, "pack")
    file = root / "imagenet_lt" / "ImageNet_LT_train.txt"
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    with pytest.raises(DataError, match=r"pack: its files train-\*\.arrow are a pack of other images .* delete them"):
        read_source(config(), root, "pack")


def test_a_pack_that_was_changed_is_named(root: Path) -> None:
    source = read_source(config(), root, "pack")
    (file,) = (root / "imagenet_lt" / "pack").glob("train-*.arrow")
    content, image = bytearray(file.read_bytes()), (root / "imagenet_lt" / "train" / "class 0" / "003.jpg").read_bytes()
    content[content.index(image) + len(image) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"train-00000\.arrow: image train/class 0/003\.jpg is not what was packed"):
        _ = source.train.images[3]
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"train-00000\.arrow: not a readable Arrow file"):
        read_source(config(), root, "pack")


def test_a_full_disk_is_told_and_what_was_packed_stays(root: Path) -> None:
    """Told by the kernel when room is asked for, before a page is written to: here by a limit on the size of files."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trainables.config import DataConfig\n"
        "from trainables.data import read_source\n"
        "from trainables.errors import DataError\n"
        "data = DataConfig.model_validate_json(sys.argv[3])\n"
        "try: read_source(data, Path(sys.argv[1]), sys.argv[2])\n"
        "except DataError as error: print(error)\n"
    )

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    for images, what in (("pack", "the pack of 21 images"), ("map", r"the decoded images \(0.0 GiB\)")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), images, config().model_dump_json()],
            capture_output=True,
            text=True,
            preexec_fn=small_files,
            check=True,
        )
        assert re.search(f"{what} cannot be kept there .*File too large.*resources.images: files", done.stdout)
    assert read_source(config(), root, "pack").train.images.shape[0] == 21  # with room it goes on


def spoil(root: Path, name: str) -> str:
    """Cut a training image off in the middle; returns what it is called."""
    file = root / ("imagenet_lt" if name == "imagenet_lt" else "tree") / "train" / "class 1" / "002.jpg"
    file.write_bytes(file.read_bytes()[:200])
    return str(file)


@pytest.mark.parametrize("name", ["imagenet_lt", "folder"])
@pytest.mark.parametrize("images", ["map", "files", "pack"])
def test_broken_images_stop(root: Path, name: str, images: Kept) -> None:
    spoil(root, name)
    with pytest.raises(DataError, match=r"class 1/002\.jpg.*: not a readable image"):
        read_source(config(name), root, images).train.images[:]


@pytest.mark.parametrize("name", ["imagenet_lt", "folder"])
@pytest.mark.parametrize("images", ["files", "pack"])
def test_broken_images_are_skipped_where_asked(
    root: Path, name: str, images: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    """The class's next image of those that are trained on stands in, also where pictures stay whole."""
    spoil(root, name)
    skipping = trial(config(name, unreadable="skip", aspect="whole"))
    data = split(skipping.data, read_source(skipping.data, root, images))
    broken = _where(data, "train/class 1/002.jpg")
    following = _after(data, broken)
    with caplog.at_level(logging.WARNING):
        found = data.train.images[np.arange(21)]
    assert "class 1/002.jpg" in caplog.messages[0] and "stands in for it" in caplog.messages[0]
    assert np.array_equal(found[broken], found[following]) and data.train.labels[following] == 1
    assert np.array_equal(data.train.images[np.asarray([broken])][0], found[following])  # in whatever batch
    one, other = (data.train.images.pictures(np.asarray([place]))[0] for place in (broken, following))
    assert one.tobytes() == other.tobytes()
    *_, last = numbers(skipping, read_source(skipping.data, root, images))
    assert np.isfinite(last["train/loss"])


def _where(data: TrialData, name: str) -> int:
    contents = data.train.images.images.contents
    return next(place for place, number in enumerate(data.train.images.index) if contents.name(number) == name)


def _after(data: TrialData, place: int) -> int:
    same = np.flatnonzero(data.train.labels == data.train.labels[place]).tolist()
    return int(same[(same.index(place) + 1) % len(same)])


def test_a_class_of_broken_images_stops(root: Path) -> None:
    folder = root / "imagenet_lt" / "train" / "class 2"
    files = sorted(folder.iterdir())
    for file in files[1:]:
        file.write_bytes(b"none")
    data = split(config(unreadable="skip"), read_source(config(unreadable="skip"), root, "files"))
    whole = _where(data, "train/class 2/000.jpg")
    assert all(np.array_equal(data.train.images[place], data.train.images[whole]) for place in (18, 19, 20))
    files[0].write_bytes(b"none")
    with pytest.raises(DataError, match="nor is there a readable training image of its class"):
        _ = data.train.images[19]


@pytest.mark.parametrize("held", [0, 2])
def test_broken_images_for_evaluation_always_stop(root: Path, held: int) -> None:
    """Of the test set, or held out of the training images: none of these stands in for them."""
    (root / "tree" / "val").rename(root / "val")  # no official validation images
    for file in (root / "tree" / ("train" if held else "test") / "class 0").iterdir():
        file.write_bytes(b"none")
    data = split(config("folder", unreadable="skip", val_per_class=held), read_source(config("folder"), root, "files"))
    with pytest.raises(DataError, match=r"class 0/\d+\.jpg: not a readable image"):
        _ = data.evaluation.images[np.arange(len(data.evaluation.labels))]


def test_a_map_skips_nothing(root: Path) -> None:
    with pytest.raises(DataError, match=r"a map is decoded before: set resources\.images to files or pack"):
        read_source(config(unreadable="skip"), root, "map")


@pytest.mark.parametrize("images", ["map", "pack"])
def test_parquet_files_that_were_replaced_are_other_contents(root: Path, images: Kept) -> None:
    """The same rows in another order: labels are never read beside images of before."""
    before = read_source(config("parquet"), root, images)
    file = root / "table" / "train.parquet"
    pq.write_table(pq.read_table(file).take(list(reversed(range(21)))), file, row_group_size=8)
    if images == "pack":
        with pytest.raises(DataError, match="a pack of other images"):
            read_source(config("parquet"), root, images)
        return
    after = read_source(config("parquet"), root, images)
    assert after.fingerprint != before.fingerprint and (after.train.labels == before.train.labels[::-1]).all()
    assert np.array_equal(after.train.images[:], read_source(config("parquet", on_disk=False), root).train.images)


@pytest.mark.parametrize("images", ["map", "pack"])
def test_parquet_without_rows_is_refused(root: Path, images: Kept) -> None:
    file = root / "table" / "test.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(DataError, match=r"test\.parquet: no rows"):
        read_source(config("parquet"), root, images)


def test_a_pack_that_lost_a_file_is_made_again_from_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "FILE_BYTES", 3000)
    monkeypatch.setattr(packs, "WRITTEN_BYTES", 1500)
    want = read_source(config(), root, "pack").train.images[:]
    files = sorted((root / "imagenet_lt" / "pack").glob("train-*.arrow"))
    assert len(files) > 3
    files[1].unlink()
    assert np.array_equal(read_source(config(), root, "pack").train.images[:], want)
    assert sorted((root / "imagenet_lt" / "pack").glob("train-*.arrow")) == files


def test_a_node_that_lacks_the_pack_says_so(root: Path, tmp_path: Path) -> None:
    """A pack is sent as its path, and with what is expected there."""
    sent = pickle.dumps(read_source(config(), root, "pack").train.images)
    (root / "imagenet_lt" / "pack").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"0 of 21 images of the pack .* copy the whole folder here"):
        pickle.loads(sent)[:]
    other = root / "imagenet_lt" / "ImageNet_LT_train.txt"
    other.write_text("".join(reversed(other.read_text().splitlines(keepends=True))))
    read_source(config(), root, "pack")
    with pytest.raises(DataError, match="0 of 21 images of the pack"):
        pickle.loads(sent)[:]


def test_two_runs_make_a_pack_once(root: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path\n"
        "from tests.trainables.test_kept import config\n"
        "from trainables.data import pack, read_source\n"
        "some = pack._some\n"
        "def told(*words): print('packed'); return some(*words)\n"
        "pack._some = told\n"
        "print(read_source(config(), Path(sys.argv[1]), 'pack').fingerprint)\n"
    )
    words = [sys.executable, "-c", code, str(root)]
    both = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in both]
    assert (
        said[0][-1] == said[1][-1] and sum(words.count("packed") for words in said) == 3
    )  # train, test and validation


def test_file_names_that_are_not_utf8_are_named(root: Path) -> None:
    (root / "tree" / "train" / "class 0" / "000.jpg").rename(root / "tree" / "train" / "class 0" / "\udcff.jpg")
    with pytest.raises(DataError, match="is not UTF-8; rename it"):
        read_source(config("folder"), root, "files")


def test_pictures_of_other_modes(root: Path) -> None:
    """CMYK, grey, 16-bit grey, palette with transparency: 8-bit RGB each, from files, pack and map alike."""
    grey = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    pictures = {
        "a.jpg": Image.new("CMYK", (32, 32), (0, 255, 255, 0)),
        "b.png": Image.fromarray(grey),
        "c.png": Image.new("LA", (32, 32), (100, 7)),
        "d.png": Image.new("P", (32, 32), 3),
    }
    lines = []
    for label, (name, image) in enumerate(pictures.items()):
        image.save(root / "imagenet_lt" / name)
        lines.append(f"{name} {label % 3}\n")
    (root / "imagenet_lt" / "ImageNet_LT_train.txt").write_text("".join(lines))
    ways: tuple[Kept, ...] = ("map", "files", "pack")
    found = [read_source(config(), root, images).train.images[:] for images in ways]
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    cmyk, sixteen, alpha, _ = found[0]
    assert cmyk[0].min() > 200 and cmyk[1:].max() < 60  # red
    assert sixteen[:, 0, 0].max() < 20 and sixteen[:, -1, -1].min() > 235 and (alpha == 100).all()


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"name": "cifar10", "on_disk": True}, r"data\.on_disk goes with `name: parquet` or .* fits into memory"),
        ({"name": "imagenet_lt", "on_disk": True}, r"stays on disk anyway: leave it out"),
        ({"name": "cifar10", "unreadable": "skip"}, r"data\.unreadable = 'skip' needs images that stay on disk"),
        ({"name": "folder", "path": "x", "aspect": "whole", "image_size": 8}, r"data\.aspect = 'whole' needs images"),
    ],
)
def test_options_that_do_not_go_together(over: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig.model_validate(over)


def test_whole_pictures_need_a_crop_of_their_own(root: Path) -> None:
    data = {"name": "imagenet_lt", "image_size": 8, "aspect": "whole"}
    for augmentation in ({}, {"crop": "random_resized_crop", "copies": 2, "copy_policies": ["none", "rand"]}):
        with pytest.raises(ValidationError, match=r"set augmentation\.crop to random_resized_crop"):
            TrialConfig.model_validate({"data": data, "augmentation": augmentation})
    with pytest.raises(DataError, match=r"Parquet files cannot be read image by image; set resources\.images to map"):
        read_source(config("parquet"), root, "files")


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A map is decoded in several pieces."""
    monkeypatch.setattr(kept, "STEP", 8)
    yield


def test_a_shot_group_stays_on_disk(root: Path) -> None:
    source = read_source(config(), root, "files")
    few = split(config(shot_group="few"), source)
    assert isinstance(few.train.images.images, EncodedImages) and len(few.train.labels) == 21
