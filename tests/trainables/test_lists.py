"""The published lists of large sets: small ones of the same form, kept on disk and trained on from there."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from ltsearch.store.ids import recipes
from trainables.augmentation.geometry import center_crop
from trainables.config import DataConfig, Resize, TrialConfig
from trainables.data import kept, on_disk, read_source
from trainables.data.lists import LISTS
from trainables.data.longtail import TrialData, split
from trainables.data.on_disk import EncodedImages, Files, MappedImages, Rows
from trainables.data.source import Part, open_picture
from trainables.errors import DataError
from trainables.files import write_text
from trainables.run_options import RunOptions
from trainables.training import train

COUNTS = (20, 8, 3)  # images a class


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An `imagenet_lt` of three classes with images of different sizes."""
    folder = tmp_path / "imagenet_lt"
    random = np.random.default_rng(0)
    for name, counts in (("train", COUNTS), ("val", (2, 2, 2)), ("test", (4, 4, 4))):
        lines = []
        for label, count in enumerate(counts):
            for i in range(count):
                path = folder / name / f"class {label}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 90, (30 + i, 40, 3), np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(path)
                lines.append(f"{path.relative_to(folder)} {label}")
        (folder / f"ImageNet_LT_{name}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def config(**over: Any) -> DataConfig:
    tree = {"name": "imagenet_lt", "image_size": 16, "store_size": 20, "imbalance": {"profile": "natural"}}
    return DataConfig.model_validate(tree | over)


def test_images_are_decoded_once_and_stay_on_disk(root: Path) -> None:
    source = read_source(config(), root)
    assert isinstance(source.train.images, MappedImages) and source.train.images.shape == (31, 3, 20, 20)
    assert np.bincount(source.train.labels).tolist() == list(COUNTS) and source.validation is not None
    line = (root / "imagenet_lt" / "ImageNet_LT_train.txt").read_text().splitlines()[24]
    with Image.open(root / "imagenet_lt" / line.rsplit(" ", 1)[0]) as image:
        want = np.asarray(image.resize((20, 20), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(source.train.images[24], want)
    for image in (root / "imagenet_lt" / "train").rglob("*.png"):
        image.unlink()  # not looked at again
    again = read_source(config(), root)
    assert again.fingerprint == source.fingerprint
    with pytest.raises(
        DataError, match="31 of 31 images of the list of train images are not there: train/class 0/0.png, .*9.png …;"
    ):
        read_source(config(store_size=24), root)


def test_the_shorter_side_is_resized_and_evaluation_sees_the_centre(root: Path) -> None:
    """What torchvision's Resize(24) and CenterCrop(16) show of images of 30 to 49 × 40 pixels."""
    source = read_source(config(store_size=24, aspect="keep"), root)
    lines = (root / "imagenet_lt" / "ImageNet_LT_train.txt").read_text().splitlines()
    shown = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(16), transforms.PILToTensor()])
    for line, image in zip(lines, source.train.images, strict=True):
        with Image.open(root / "imagenet_lt" / line.rsplit(" ", 1)[0]) as original:
            assert torch.equal(center_crop(torch.tensor(image)[None], 16)[0], shown(original))
    assert sorted(folder.name for folder in (root / "imagenet_lt").glob("cache-*")) == ["cache-24-keep"]
    assert config(store_size=24, aspect="keep", interpolation="box").resize.name == "24-box-keep"  # type: ignore[union-attr]


def test_inaturalist_has_statistics_of_its_own(root: Path) -> None:
    (root / "imagenet_lt").rename(root / "inaturalist2018")
    for ours, theirs in (("train", "train"), ("test", "val")):
        (root / "inaturalist2018" / f"ImageNet_LT_{ours}.txt").rename(
            root / "inaturalist2018" / f"iNaturalist18_{theirs}.txt"
        )
    source = read_source(config(name="inaturalist2018"), root)
    assert source.mean == (0.466, 0.471, 0.380) and source.std == (0.195, 0.194, 0.192)
    trial = TrialConfig.model_validate({"data": {"name": "inaturalist2018", "image_size": 16}})
    assert recipes(trial)["data"] == 2 and recipes(TrialConfig())["data"] == 1  # a change of recipe, of this set only


def test_another_size_or_list_is_another_content(root: Path) -> None:
    first = read_source(config(), root).fingerprint
    assert read_source(config(store_size=24), root).fingerprint != first
    file = root / "imagenet_lt" / "ImageNet_LT_train.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    changed = read_source(config(), root)
    assert changed.fingerprint != first and len(changed.train.labels) == 30


@pytest.mark.parametrize("over", [{}, {"aspect": "keep", "interpolation": "box"}])
def test_files_give_the_pixels_of_the_map(root: Path, over: dict[str, Any]) -> None:
    """And the same fingerprint: a cell may be trained from either, and nothing is written for them."""
    files = read_source(config(**over), root, "files")
    assert isinstance(files.train.images, EncodedImages) and not list((root / "imagenet_lt").glob("cache-*"))
    mapped = read_source(config(**over), root)
    assert files.fingerprint == mapped.fingerprint and (files.train.labels == mapped.train.labels).all()
    assert files.train.images.shape == mapped.train.images.shape
    for at in (np.asarray([5, 0, 30, 5]), slice(3, 9), np.asarray([], np.int64)):
        assert np.array_equal(files.train.images[at], mapped.train.images[at])
    assert np.array_equal(files.test.images[2], mapped.test.images[2])
    sent = pickle.loads(pickle.dumps(files.train.images))
    assert np.array_equal(sent[1], files.train.images[1])


def test_a_trial_from_files_has_the_numbers_of_one_from_the_map(root: Path) -> None:
    found = []
    for images in ("files", "map"):
        trial = TrialConfig.model_validate(
            {
                "data": config().model_dump(),
                "model": {"backbone": "resnet8", "experts": 2},
                "augmentation": {"copies": 2, "crop": "random_resized_crop", "color_jitter": 0.4},
                "training": {"epochs": 2, "batch_size": 8},
            }
        )
        data = split(trial.data, read_source(trial.data, root, images))
        assert isinstance(data.train.images, Rows)
        found.append(
            [
                {k: v for k, v in r.metrics.items() if "second" not in k and "memory" not in k}
                for r in train(trial, data, RunOptions())
            ]
        )
    assert found[0] == found[1]


def test_a_broken_image_in_the_middle_of_an_epoch_is_named(root: Path) -> None:
    line = (root / "imagenet_lt" / "ImageNet_LT_train.txt").read_text().splitlines()[20].rsplit(" ", 1)[0]
    source = read_source(config(), root, "files")
    whole = (root / "imagenet_lt" / line).read_bytes()
    (root / "imagenet_lt" / line).write_bytes(whole[: len(whole) // 2])
    trial = TrialConfig.model_validate(
        {"data": config().model_dump(), "model": {"backbone": "resnet8"}, "training": {"epochs": 1, "batch_size": 31}}
    )
    with pytest.raises(DataError, match=f"{line}: not a readable image"):
        list(train(trial, split(trial.data, source), RunOptions()))


def test_files_that_changed_are_another_content(root: Path) -> None:
    before = read_source(config(), root, "files").fingerprint
    line = (root / "imagenet_lt" / "ImageNet_LT_train.txt").read_text().splitlines()[0].rsplit(" ", 1)[0]
    Image.new("RGB", (50, 50), (1, 2, 3)).save(root / "imagenet_lt" / line)
    assert read_source(config(), root, "files").fingerprint != before
    (root / "imagenet_lt" / line).unlink()
    with pytest.raises(DataError, match=f"1 of 31 images of the list of train images are not there: {line};"):
        read_source(config(), root, "files")


def test_only_a_path_is_sent_to_other_processes(root: Path) -> None:
    source = read_source(config(), root)
    sent = pickle.dumps(source.train.images)
    assert len(sent) < 1000 and np.array_equal(pickle.loads(sent), source.train.images)
    part = source.train.images[3:5]
    assert np.array_equal(pickle.loads(pickle.dumps(part)), part)
    rows = split(config(), source).train.images
    assert isinstance(rows, Rows) and len(pickle.dumps(rows)) < 2000


def test_training_from_disk_is_training_from_memory(root: Path) -> None:
    trial = TrialConfig.model_validate(
        {
            "data": config().model_dump(),
            "augmentation": {"policy": "sim", "copies": 2},
            "model": {"backbone": "resnet8", "experts": 2, "classifier": "cosine"},
            "training": {"epochs": 3, "batch_size": 8},
        }
    )
    data = split(trial.data, read_source(trial.data, root))
    whole = Part(data.train.images[np.arange(31)], data.train.labels)
    in_memory = TrialData(
        **{**vars(data), "train": whole, "evaluation": Part(np.array(data.evaluation.images), data.evaluation.labels)}
    )
    curves = [[r.metrics["train/loss"] for r in train(trial, d, RunOptions())] for d in (data, in_memory)]
    assert curves[0] == curves[1]
    *_, last = train(trial, data, RunOptions())
    assert last.metrics["test/ensemble_top1"] > 0.4  # above chance; colours tell the classes


def test_validation_is_the_official_one(root: Path) -> None:
    held = split(config(val_per_class=1), read_source(config(), root))
    assert held.split == "val" and len(held.evaluation.labels) == 6 and held.class_counts.tolist() == list(COUNTS)


@pytest.mark.parametrize(
    ("spoil", "over", "message"),
    [
        (lambda f: (f / "ImageNet_LT_test.txt").unlink(), {}, r"ImageNet_LT_test.txt not in .*the OLTR repository"),
        (lambda f: None, {"image_size": None, "store_size": None}, "set data.image_size"),
        (lambda f: (f / "ImageNet_LT_val.txt").write_text("a.png\n"), {}, "val.txt, line 1: .* is not `relative"),
        (lambda f: (f / "ImageNet_LT_val.txt").write_text("\n"), {}, "no images are listed"),
        (lambda f: (f / "ImageNet_LT_val.txt").write_text("none.png 0\n"), {}, "1 of 1 images of .* are not there: none.png;"),
        (lambda f: (f / "test" / "class 0" / "0.png").write_text("x"), {}, "0.png: not a readable image"),
        (lambda f: (f / "cache-20").write_text("x"), {}, "the decoded images .* cannot be kept there"),
    ],
)  # fmt: skip
def test_what_is_refused(root: Path, spoil: Any, over: dict[str, Any], message: str) -> None:
    spoil(root / "imagenet_lt")
    with pytest.raises(DataError, match=message):
        read_source(config(**over), root)


def test_a_decode_that_is_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After whole pieces, with the same bytes and the same fingerprint."""
    whole = read_source(config(), root)
    want = np.array(whole.train.images)
    shutil.rmtree(root / "imagenet_lt" / "cache-20")
    monkeypatch.setattr(kept, "STEP", 4)
    looked: list[str] = []

    def killed(content: bytes, where: str, least: int | None = None) -> Any:
        looked.append(where)
        if len(looked) > 14:
            raise KeyboardInterrupt
        return open_picture(content, where, least)

    monkeypatch.setattr(on_disk, "open_picture", killed)
    with pytest.raises(KeyboardInterrupt):
        read_source(config(), root)
    progress = json.loads((root / "imagenet_lt" / "cache-20" / "train.part.json").read_text())
    assert progress["done"] in (8, 12)  # of 31
    looked.clear()
    monkeypatch.setattr(on_disk, "open_picture", lambda *words: looked.append(words[1]) or open_picture(*words))
    again = read_source(config(), root)
    assert len([where for where in looked if "/train/" in where]) == 31 - progress["done"]
    assert again.fingerprint == whole.fingerprint and np.array_equal(again.train.images, want)
    assert not list(root.rglob("*.part*"))


def test_pieces_of_another_list_are_not_gone_on_from(root: Path) -> None:
    cache = root / "imagenet_lt" / "cache-20"
    cache.mkdir()
    np.save(cache / "train.npy", np.zeros((31, 3, 20, 20), np.uint8))
    (cache / "train.npy").rename(cache / "train.part")
    (cache / "train.part.json").write_text(json.dumps({"listed": "another", "done": 8}))
    assert read_source(config(), root).train.images[0].any()


def test_what_a_list_left_behind_does_not_vouch_for_another_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A is killed in the middle, B with as many images right at its start, and A again: none of B's pixels are A's."""
    cache, folder = root / "imagenet_lt" / "cache-20", root / "imagenet_lt"
    want = np.array(read_source(config(), root).train.images)
    shutil.rmtree(cache)
    monkeypatch.setattr(kept, "STEP", 4)
    file = folder / "ImageNet_LT_train.txt"
    a = file.read_text()
    b = "\n".join(reversed(a.splitlines())) + "\n"

    def killed_after(images: int) -> None:
        left = iter(range(images))

        def counting(*words: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return open_picture(*words)

        monkeypatch.setattr(on_disk, "open_picture", counting)
        with pytest.raises(KeyboardInterrupt):
            read_source(config(), root)
        monkeypatch.setattr(on_disk, "open_picture", open_picture)

    killed_after(14)
    file.write_text(b)
    killed_after(2)
    file.write_text(a)
    assert np.array_equal(read_source(config(), root).train.images, want)
    # And of a list that is whole: it is not vouched for once another one's images lie there.
    file.write_text(b)
    monkeypatch.setattr(kept, "write_text", stop_at_stamp)
    with pytest.raises(DataError, match="full"):
        paths = [line.rpartition(" ")[0] for line in b.splitlines()]
        kept._mapped(EncodedImages(Files(folder, paths), Resize(20)), cache / "train.npy", "train", "b")
    monkeypatch.setattr(kept, "write_text", write_text)
    file.write_text(a)
    assert np.array_equal(read_source(config(), root).train.images, want)


def stop_at_stamp(path: Path, text: str) -> None:
    """A disk that is full when the stamp is to be written."""
    if path.name == "train.json":
        raise OSError(28, "full")
    write_text(path, text)


def test_the_real_names() -> None:
    assert LISTS["inaturalist2018"].test == "iNaturalist18_val.txt" and LISTS["inaturalist2018"].validation is None
