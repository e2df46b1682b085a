"""Long-tailed subsets against the published counts and an independent draw; readers, and what they refuse."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from trainables.config import DataConfig, ImbalanceConfig
from trainables.data import read_source
from trainables.data.longtail import profile_counts, split
from trainables.data.source import Part, make_source
from trainables.errors import DataError


@pytest.mark.parametrize(
    ("classes", "per_class", "factor", "total"),
    [
        (100, 500, 100, 10847),
        (100, 500, 50, 12608),
        (100, 500, 10, 19573),
        (100, 500, 200, 9502),
        (10, 5000, 100, 12406),
        (10, 5000, 50, 13996),
        (10, 5000, 10, 20431),
        (10, 5000, 200, 11203),
    ],
)
def test_exponential_totals_are_the_published_ones(classes: int, per_class: int, factor: float, total: int) -> None:
    counts = profile_counts(ImbalanceConfig(factor=factor), np.full(classes, per_class))
    assert counts.sum() == total


def test_profiles() -> None:
    available = np.full(10, 5000)
    exponential = profile_counts(ImbalanceConfig(factor=100), available)
    assert exponential.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    step = profile_counts(ImbalanceConfig(profile="step", factor=100), available)
    assert step.tolist() == [5000] * 5 + [50] * 5
    natural = profile_counts(ImbalanceConfig(profile="natural"), np.array([7, 3, 9]))
    assert natural.tolist() == [7, 3, 9]


@pytest.fixture(scope="module")
def source() -> Any:
    """500 images in 5 classes; the first pixel of an image is its number."""
    images = np.zeros((500, 3, 8, 8), np.uint8)
    images[:, 0, 0, 0], images[:, 1, 0, 0] = np.arange(500) % 256, np.arange(500) // 256
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(5), 100))
    return make_source("numbered", tuple("abcde"), Part(images, labels), Part(images[:50], labels[:50]))


def numbers(part: Part) -> list[int]:
    return (part.images[:, 0, 0, 0].astype(int) + 256 * part.images[:, 1, 0, 0].astype(int)).tolist()


def test_subset_is_the_ldam_convention(source: Any) -> None:
    config = DataConfig(imbalance=ImbalanceConfig(factor=10, subset_seed=3))
    got = numbers(split(config, source).train)
    np.random.seed(3)
    want: list[int] = []
    for j, n in enumerate([int(100 * 10 ** (-j / 4)) for j in range(5)]):
        pool = np.where(source.train.labels == j)[0]
        np.random.shuffle(pool)
        want += pool[:n].tolist()
    assert got == want


def test_validation_is_taken_from_the_end_of_each_pool(source: Any) -> None:
    plain = split(DataConfig(imbalance=ImbalanceConfig(factor=10)), source)
    held = split(DataConfig(imbalance=ImbalanceConfig(factor=10), val_per_class=30), source)
    assert (plain.split, held.split) == ("test", "val")
    assert held.class_counts.tolist() == [70, 56, 31, 17, 10]  # only the head shrinks
    assert np.bincount(held.evaluation.labels).tolist() == [30] * 5
    assert not set(numbers(held.train)) & set(numbers(held.evaluation))
    tail = plain.train.labels > 0
    assert set(np.array(numbers(plain.train))[tail]) == set(np.array(numbers(held.train))[held.train.labels > 0])


def test_data_ratio_keeps_a_fraction_of_every_class(source: Any) -> None:
    whole = split(DataConfig(imbalance=ImbalanceConfig(factor=100)), source)
    fifth = split(DataConfig(imbalance=ImbalanceConfig(factor=100), data_ratio=0.2), source)
    assert fifth.class_counts.tolist() == [max(1, int(n * 0.2)) for n in whole.class_counts]
    assert set(numbers(fifth.train)) <= set(numbers(whole.train))


def test_natural_counts_hold_out_at_most_a_fifth() -> None:
    labels = np.repeat(np.arange(3), [50, 10, 3])
    images = np.zeros((63, 3, 4, 4), np.uint8)
    natural = make_source("natural", ("a", "b", "c"), Part(images, labels), Part(images, labels))
    got = split(DataConfig(imbalance=ImbalanceConfig(profile="natural"), val_per_class=5), natural)
    assert got.class_counts.tolist() == [45, 8, 3]
    official = make_source("o", ("a", "b", "c"), natural.train, natural.test, validation=Part(images[:9], labels[:9]))
    got = split(DataConfig(imbalance=ImbalanceConfig(profile="natural"), val_per_class=5), official)
    assert got.class_counts.tolist() == [50, 10, 3] and len(got.evaluation.labels) == 9


def test_too_much_validation_is_refused(source: Any) -> None:
    with pytest.raises(DataError, match="val_per_class = 100 leaves no training image of class 'a'.*the most is 99"):
        split(DataConfig(val_per_class=100), source)


def test_digits_split_is_fixed_and_stratified(digits: Any) -> None:
    assert np.bincount(digits.test.labels).tolist() == [50] * 10
    assert len(digits.train.labels) == 1297
    assert digits.train.images.max() == 255


def test_real_cifar10(real_data: Path) -> None:
    source = read_source(DataConfig(name="cifar10", image_size=16), real_data)
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    assert source.train.images.shape == (50_000, 3, 16, 16)
    got = split(DataConfig(name="cifar10", image_size=16, data_ratio=0.2), source)
    assert len(got.train.labels) == 2478 and got.class_counts[-2:].tolist() == [16, 10]


# -- readers ---------------------------------------------------------------------------------------------------------------


def png(value: int, width: int = 6, height: int | None = None) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height or width), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def parquet(folder: Path, name: str, images: list[bytes], labels: list[int], *, classes: Any = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"picture": [{"bytes": b, "path": None} for b in images], "kind": pa.array(labels, pa.int64())})
    if classes is not None:
        features = {"picture": {"_type": "Image"}, "kind": {"_type": "ClassLabel", "names": classes}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / f"{name}-00000-of-00001.parquet")
    return folder


def read_parquet(root: Path) -> Any:
    return read_source(DataConfig(name="parquet", path="set"), root)


@pytest.mark.parametrize("interpolation", ["box", "bilinear", "bicubic"])
def test_images_are_resized_as_asked(tmp_path: Path, interpolation: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    for part in ("train", "test"):
        parquet(tmp_path / "set", part, [buffer.getvalue()] * 2, [0, 1])
    config = DataConfig(name="parquet", path="set", image_size=16, interpolation=interpolation)
    found = read_source(config, tmp_path).train.images[0].astype(float)
    means = (
        image.transpose(2, 0, 1).reshape(3, 16, 2, 16, 2).mean((2, 4))
    )  # of the four pixels that one takes the place of
    assert (np.abs(found - means).max() <= 1) == (interpolation == "box")  # Pillow rounds after each of two passes
    tensor = torch.from_numpy(image.transpose(2, 0, 1))[None].float()
    if interpolation != "box":  # an independent implementation, in floating point
        smooth = torch.nn.functional.interpolate(tensor, (16, 16), mode=interpolation, antialias=True)
        # Pillow's bicubic has a = -0.5 and rounds between its two passes; torch's with antialias has the same a
        assert np.abs(found - smooth[0].clamp(0, 255).numpy()).max() <= 1.5


def test_an_interpolation_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match="data.interpolation = 'box' says how images are resized: set data.image_size"):
        DataConfig(interpolation="box")


def test_parquet_with_any_names(tmp_path: Path) -> None:
    parquet(tmp_path / "set", "train", [png(1), png(2), png(3)], [0, 1, 1], classes=["cat", "dog"])
    parquet(tmp_path / "set", "test", [png(4)], [1], classes=["cat", "dog"])
    source = read_parquet(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.train.images[:, 0, 0, 0].tolist() == [1, 2, 3]
    assert source.train.labels.tolist() == [0, 1, 1]
    small = read_source(DataConfig(name="parquet", path="set", image_size=4), tmp_path)
    assert small.train.images.shape == (3, 3, 4, 4) and small.fingerprint != source.fingerprint


def test_parquet_refusals(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(DataError, match="no folder .*set.*--data-root or LTSEARCH_DATA"):
        read_parquet(tmp_path)
    parquet(folder, "train", [png(1), png(2)], [0, 1], classes=["cat", "dog"])
    with pytest.raises(DataError, match="needs files named train.*test"):
        read_parquet(tmp_path)
    parquet(folder, "test", [png(1)], [7], classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"test-.*row 0: label 7 in column 'kind' is out of range, allowed: 0..1"):
        read_parquet(tmp_path)
    parquet(folder, "test", [png(1)], [1], classes=["cat", "dog"])
    parquet(folder, "train", [png(1), b"not an image"], [0, 1], classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"train-.*row 1: not a readable image"):
        read_parquet(tmp_path)
    parquet(folder, "train", [png(1), png(2)[:40]], [0, 1], classes=["cat", "dog"])
    with pytest.raises(DataError, match=r"train-.*row 1: not a readable image"):
        read_parquet(tmp_path)
    parquet(folder, "train", [png(1), png(2)], [0, 0], classes=["cat", "dog"])
    with pytest.raises(DataError, match="1 of 2 classes have no training images: 'dog'"):
        read_parquet(tmp_path)
    parquet(folder, "train", [png(1), png(2, 9)], [0, 1], classes=["cat", "dog"])
    with pytest.raises(DataError, match="different sizes.*data.image_size"):
        read_parquet(tmp_path)
    pq.write_table(pa.table({"kind": [1, 2]}), folder / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="no image column.*Columns: kind: int64"):
        read_parquet(tmp_path)
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_parquet(tmp_path)


def test_folder(tmp_path: Path) -> None:
    for part, name, value in [("train", "cat", 1), ("train", "dog", 2), ("test", "dog", 3)]:
        (tmp_path / "set" / part / name).mkdir(parents=True)
        (tmp_path / "set" / part / name / "x.png").write_bytes(png(value))
    config = DataConfig(name="folder", path="set")
    source = read_source(config, tmp_path)
    assert source.class_names == ("cat", "dog") and source.test.labels.tolist() == [1]
    (tmp_path / "set" / "train" / "cat" / "y.jpg").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"cat/y.jpg: not a readable image"):
        read_source(config, tmp_path)
    with pytest.raises(DataError, match="no folder"):
        read_source(DataConfig(name="folder", path="other"), tmp_path)


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_images_that_are_not_square_need_a_size(tmp_path: Path, kind: str) -> None:
    content = png(1, 6, 4)
    if kind == "parquet":
        parquet(tmp_path / "set", "train", [content] * 2, [0, 1])
        parquet(tmp_path / "set", "test", [content], [1])
    else:
        for part, name in [("train", "cat"), ("train", "dog"), ("test", "dog")]:
            (tmp_path / "set" / part / name).mkdir(parents=True)
            (tmp_path / "set" / part / name / "x.png").write_bytes(content)
    with pytest.raises(
        DataError, match="set: images are 6×4 pixels; they must be square and of one size: set data.image_size"
    ):
        read_source(DataConfig(name=kind, path="set"), tmp_path)
    source = read_source(DataConfig(name=kind, path="set", image_size=5), tmp_path)
    assert source.train.images.shape == (2, 3, 5, 5) and source.test.images.shape == (1, 3, 5, 5)


def test_what_is_called_an_image_and_is_no_file(tmp_path: Path) -> None:
    for part, name in [("train", "cat"), ("train", "dog"), ("test", "dog")]:
        (tmp_path / "set" / part / name).mkdir(parents=True)
        (tmp_path / "set" / part / name / "x.png").write_bytes(png(1))
    config, file = DataConfig(name="folder", path="set"), tmp_path / "set" / "train" / "cat" / "y.png"
    file.symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=f"{file}: cannot be read .No such file or directory.; replace or remove it"):
        read_source(config, tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=f"{file}: cannot be read .Is a directory.; replace or remove it"):
        read_source(config, tmp_path)
    file.rmdir()
    assert len(read_source(config, tmp_path).train.labels) == 2


def test_class_names_by_number(tmp_path: Path) -> None:
    numbered = {str(j): f"class {j}" for j in (1, 0, 10, *range(2, 10))}
    parquet(tmp_path / "set", "train", [png(1)] * 11, list(range(11)), classes=numbered)
    parquet(tmp_path / "set", "test", [png(1)], [1])
    assert read_parquet(tmp_path).class_names == tuple(f"class {j}" for j in range(11))
    parquet(tmp_path / "set", "train", [png(1)], [0], classes={"x": "a"})
    with pytest.raises(DataError, match=r"train-.*: the class names of 'kind' .* are not numbered: {'x': 'a'}"):
        read_parquet(tmp_path)


def test_numbers_that_are_no_labels_are_refused_before_names_are_made_of_them(tmp_path: Path) -> None:
    parquet(tmp_path / "set", "train", [png(1), png(2)], [0, 1])
    parquet(tmp_path / "set", "test", [png(1)], [5_000_000])
    started = time.monotonic()
    with pytest.raises(DataError, match="set: labels go up to 5000000, but there are 2 training images; declare"):
        read_parquet(tmp_path)
    assert time.monotonic() - started < 1.0


def test_cifar_as_parquet_in_a_folder_below(tmp_path: Path) -> None:
    folder = tmp_path / "cifar10" / "plain_text"
    names = [f"class{i}" for i in range(10)]
    for part in ("train", "test"):
        parquet(folder, part, [png(i, 32) for i in range(10)], list(range(10)), classes=names)
    source = read_source(DataConfig(name="cifar10"), tmp_path)
    assert source.class_names == tuple(names) and source.train.images[:, 0, 0, 0].tolist() == list(range(10))


def test_cifar_archive_and_what_is_said_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/none.tar.gz")
    with pytest.raises(
        DataError, match=r"no cifar-10-python.tar.gz .* no Parquet files in .*cifar10.* failed"
    ) as error:
        read_source(DataConfig(name="cifar10"), tmp_path)
    assert str(tmp_path) in str(error.value) and "digits" in str(error.value)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_cifar_archive_is_extracted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one of many drivers that start at once, as an array of jobs does; a small one of the same layout."""
    from torchvision import datasets

    random, sums = np.random.default_rng(0), {}
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch", "batches.meta"]:
            data = {
                "data": random.integers(0, 256, (20, 3072), dtype=np.uint8),
                "labels": (np.arange(20) % 10).tolist(),
            }
            content = pickle.dumps(data if "batch_" in name or "test" in name else {"label_names": [*"abcdefghij"]})
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size, sums[name] = len(content), hashlib.md5(content).hexdigest()
            archive.addfile(entry, io.BytesIO(content))
    whole = hashlib.md5((tmp_path / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", whole)
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(datasets.CIFAR10, part, [[name, sums[name]] for name, _ in getattr(datasets.CIFAR10, part)])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": sums["batches.meta"]})
    extracted: list[str] = []
    download = datasets.CIFAR10.download
    monkeypatch.setattr(datasets.CIFAR10, "download", lambda self: (extracted.append(str(self.root)), download(self)))
    with ThreadPoolExecutor(8) as pool:
        sources = list(pool.map(lambda _: read_source(DataConfig(name="cifar10"), tmp_path), range(8)))
    assert len(extracted) == 1
    folder = tmp_path / "cifar-10-batches-py"
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".lock"} == {
        "cifar-10-python.tar.gz",
        folder.name,
    }
    assert all(source.train.images.shape == (100, 3, 32, 32) and source.class_names[1] == "b" for source in sources)
    source = sources[0]
    first = pickle.loads((folder / "data_batch_1").read_bytes())["data"][0].reshape(3, 32, 32)
    assert (source.train.images[0] == first).all()
