"""ImageNet-LT, Places-LT and iNaturalist 2018: the published lists of ``relative/path label`` beside the images.

They do not fit into memory: ``kept`` says where their images stay. Nothing of this project was ever run on the real sets; the
tests make small ones of the same form.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trainables.data.kept import keep
from trainables.data.on_disk import Files
from trainables.data.source import Labels, Part, Source, make_source
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig
    from trainables.data.kept import Kept


@dataclass(frozen=True)
class ListSet:
    """Names of a set's published lists, and where they come from."""

    train: str
    test: str
    validation: str | None
    origin: str
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


LISTS = {
    "imagenet_lt": ListSet(
        "ImageNet_LT_train.txt",
        "ImageNet_LT_test.txt",
        "ImageNet_LT_val.txt",
        "the OLTR repository (Liu et al., CVPR 2019)",
    ),
    "places_lt": ListSet(
        "Places_LT_train.txt", "Places_LT_test.txt", "Places_LT_val.txt", "the OLTR repository (Liu et al., CVPR 2019)"
    ),
    # Its test labels are not public: papers report the official validation split.
    "inaturalist2018": ListSet(
        "iNaturalist18_train.txt",
        "iNaturalist18_val.txt",
        None,
        "the classifier-balancing repository (Kang et al., 2020)",
        (0.466, 0.471, 0.380),  # of its own images, as published code for it has them
        (0.195, 0.194, 0.192),
    ),
}


def read(config: DataConfig, root: Path, images: Kept = "map") -> Source:
    """The lists of ``<root>/<name>/`` with their images below the same folder, kept as asked.

    Raises ``DataError``. The fingerprint is that of the lists and of the files' sizes: pictures are not looked at for it.
    """
    lists, folder = LISTS[config.name], root / config.name
    names = {"train": lists.train, "test": lists.test, "validation": lists.validation}
    files = {part: folder / name for part, name in names.items() if name is not None}
    missing = [file.name for file in files.values() if not file.is_file()]
    if missing:
        raise DataError(
            f"{config.name}: {', '.join(missing)} not in {folder}; put the published lists (from {lists.origin}) and the "
            "images that they name there, or name another data root with --data-root or LTSEARCH_DATA"
        )
    digest = hashlib.sha256(config.resize.name.encode() if config.resize is not None else b"")
    parts: dict[str, Part] = {}
    for part, file in files.items():
        paths, labels = _entries(file)
        found, content = keep(Files(folder, paths), config, images, folder, part)
        parts[part] = Part(found, labels)
        digest.update(content.encode() + labels.tobytes())
    classes = 1 + max(int(part.labels.max()) for part in parts.values())
    return make_source(
        config.name,
        tuple(str(j) for j in range(classes)),
        parts["train"],
        parts["test"],
        lists.mean,
        lists.std,
        validation=parts.get("validation"),
        fingerprint=digest.hexdigest()[:16],
    )


def _entries(file: Path) -> tuple[list[str], Labels]:
    paths, labels = [], []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start}); save the list as UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit() and len(label) < 10):
            raise DataError(f"{file}, line {number}: {line!r} is not `relative/path label`")
        paths.append(path)
        labels.append(int(label))
    if not paths:
        raise DataError(f"{file}: no images are listed")
    return paths, np.asarray(labels, np.int64)
