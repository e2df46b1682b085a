"""Hugging Face-style Parquet: an image struct column with ``bytes``, an integer label column, names in the metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.kept import keep
from trainables.data.on_disk import hash_of
from trainables.data.source import Images, Labels, Part, Source, as_metadata_mapping, decode, make_source, stack
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig, Resize
    from trainables.data.kept import Kept

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_ImageNetMean, _ImageNetStd = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read(config: DataConfig, root: Path, images: Kept = "map") -> Source:
    """The data set in ``<root>/<path>``; if it stays on disk, its images kept as asked."""
    assert config.path is not None  # a rule of DataConfig
    folder, digest = root / config.path, hashlib.sha256()

    def on_disk(part: str, files: list[Path], names: tuple[str, ...] | None) -> Part:
        labels = np.concatenate([_labels(file, names) for file in files])
        if not len(labels):
            raise DataError(f"{', '.join(map(str, files))}: no rows")
        found, content = keep(ParquetImages(folder, files, labels), config, images, folder, part)
        digest.update(content.encode() + labels.tobytes())
        return Part(found, labels)

    if not config.on_disk:
        return read_folder(config.path, folder, config.resize, _ImageNetMean, _ImageNetStd)
    if images == "files":
        raise DataError(
            f"{config.path}: Parquet files cannot be read image by image; set resources.images to map (decoded once) or pack "
            "(copied once)"
        )
    return read_folder(config.path, folder, None, _ImageNetMean, _ImageNetStd, on_disk, digest)


def read_folder(
    name: str,
    folder: Path,
    resize: Resize | None,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    on_disk: Callable[[str, list[Path], tuple[str, ...] | None], Part] | None = None,
    digest: Any = None,
) -> Source:
    """Files ``<split>*.parquet`` with the splits train, test and perhaps validation; raises ``DataError``."""
    if not folder.is_dir():
        raise DataError(
            f"{name}: no folder {folder}; put the Parquet files there, or name another data root with --data-root or "
            "LTSEARCH_DATA"
        )
    found = _files(folder)
    files = {split: [f for f in found if f.name.lower().startswith(prefixes)] for split, prefixes in SPLITS.items()}
    test = files["test"] or files["validation"]
    if not files["train"] or not test:
        raise DataError(
            f"{name}: {folder} needs files named train*.parquet and test*.parquet (or validation*.parquet); "
            f"found {[f.name for f in found] or 'no Parquet file'}"
        )
    names = _common_names([*files["train"], *test, *files["validation"]])
    read_part = on_disk or (lambda part, files, names: _read_part(files, resize, names))
    train_part = read_part("train", files["train"], names)
    test_part = read_part("test", test, names)
    has_validation = files["validation"] and files["test"]
    validation = read_part("validation", files["validation"], names) if has_validation else None
    if names is None:
        top = max(int(part.labels.max()) for part in (train_part, test_part))
        if top >= len(train_part.labels):
            raise DataError(
                f"{name}: labels go up to {top}, but there are {len(train_part.labels)} training images; declare the class "
                "names in the schema's `huggingface` metadata, or number the classes from 0 without gaps"
            )
        names = tuple(str(j) for j in range(top + 1))
    fingerprint = digest.hexdigest()[:16] if digest is not None else None
    return make_source(name, names, train_part, test_part, mean, std, validation, fingerprint)


def _files(folder: Path) -> list[Path]:
    """Parquet files below a folder, sorted; raises ``OSError`` for a folder below it that this user may not read."""

    def unreadable(error: OSError) -> None:
        raise error

    walked = os.walk(folder, onerror=unreadable, followlinks=True)
    return sorted(Path(place) / name for place, _, names in walked for name in names if name.endswith(".parquet"))


def _features(schema: pa.Schema) -> dict[str, dict[str, object]]:
    """The columns that the ``huggingface`` metadata declares; empty if there is none or it is not JSON."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        info = as_metadata_mapping(json.loads(raw)) if raw else {}
    except ValueError:
        return {}
    features = as_metadata_mapping(as_metadata_mapping(info.get("info")).get("features"))
    return {name: as_metadata_mapping(feature) for name, feature in features.items()}


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None


def _columns(file: Path) -> tuple[str, str]:
    """The image and the label column: what the metadata declares, else the only columns of the right type."""
    schema = _schema(file)
    features = _features(schema)
    images = [n for n, f in features.items() if f.get("_type") == "Image" and n in schema.names]
    images = images or [f.name for f in schema if pa.types.is_struct(f.type) and f.type.get_field_index("bytes") >= 0]
    images = images or [f.name for f in schema if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type)]
    columns = ", ".join(f"{f.name}: {f.type}" for f in schema)
    if len(images) != 1:
        found = "no image column" if not images else f"several image columns ({', '.join(images)})"
        raise DataError(
            f"{file}: {found}; one column must be a struct with a `bytes` field, or be declared as Image in the schema's "
            f"`huggingface` metadata. Columns: {columns}"
        )
    labels = [n for n, f in features.items() if f.get("_type") == "ClassLabel" and n in schema.names]
    labels = labels or [f.name for f in schema if pa.types.is_integer(f.type)]
    for favourite in ("label", "labels", "fine_label"):
        if len(labels) > 1 and favourite in labels:
            labels = [favourite]
    if len(labels) != 1 or not pa.types.is_integer(schema.field(labels[0]).type):
        found = "no integer label column" if not labels else f"no single integer label column ({', '.join(labels)})"
        raise DataError(f"{file}: {found}; declare one as ClassLabel or call it `label`. Columns: {columns}")
    return images[0], labels[0]


def _class_names(file: Path) -> tuple[str, ...] | None:
    _, label = _columns(file)
    names = _features(_schema(file)).get(label, {}).get("names")
    if isinstance(names, dict):  # older writers: {"0": "airplane", ...}
        if not all(str(key).isascii() and str(key).isdigit() for key in names):
            raise DataError(
                f"{file}: the class names of {label!r} in the `huggingface` metadata are not numbered: {names!r:.200}"
            )
        numbers = sorted(map(int, names))
        if numbers != list(range(len(numbers))):
            raise DataError(
                f"{file}: the class names of {label!r} in the `huggingface` metadata are numbered {_some(numbers)}: a label "
                f"would get the name of another class; number the {len(numbers)} names 0..{len(numbers) - 1} without gaps"
            )
        names = [names[key] for key in sorted(names, key=int)]
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _common_names(files: list[Path]) -> tuple[str, ...] | None:
    """The class names that the files declare; raises ``DataError`` if one names its labels differently from another."""
    declared = [(file, names) for file in dict.fromkeys(files) if (names := _class_names(file)) is not None]
    if not declared:
        return None
    first, names = declared[0]
    for file, others in declared[1:]:
        if others == names:
            continue
        if len(others) != len(names):
            what = f"{len(others)} here and {len(names)} there"
        else:
            number = next(j for j, (a, b) in enumerate(zip(others, names, strict=True)) if a != b)
            what = f"label {number} is {others[number]!r} here and {names[number]!r} in {first}"
        raise DataError(
            f"{file}: its class names differ from those of {first}: {what}; write every file with the same names in the same "
            "order, and labels that are numbered by them"
        )
    return names


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" …" if len(numbers) > 8 else "")


def _read_part(files: list[Path], resize: Resize | None, names: tuple[str, ...] | None) -> Part:
    images: list[Images] = []
    labels: list[int] = []
    for file in files:
        image_column, label_column = _columns(file)
        try:
            table = pq.read_table(file, columns=[image_column, label_column])
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{file}: not a readable Parquet file ({error})") from None
        classes = len(names) if names else None
        for row, (cell, label) in enumerate(
            zip(table[image_column].to_pylist(), table[label_column].to_pylist(), strict=True)
        ):
            where = f"{file}, row {row}"
            images.append(decode(_bytes(cell, where, image_column), resize, where))
            labels.append(_label(label, where, label_column, classes))
    if not images:
        raise DataError(f"{', '.join(map(str, files))}: no rows")
    return Part(stack(images, str(files[0].parent)), np.asarray(labels, np.int64))


def _bytes(cell: Any, where: str, column: str) -> bytes:
    content: bytes | None = cell.get("bytes") if isinstance(cell, dict) else cell
    if not content:
        raise DataError(f"{where}: column {column!r} holds no image bytes")
    return content


def _label(label: int | None, where: str, column: str, classes: int | None) -> int:
    if label is None or label < 0 or (classes is not None and label >= classes):
        allowed = f"0..{classes - 1}" if classes else "0 and up"
        raise DataError(f"{where}: label {label!r} in column {column!r} is out of range, allowed: {allowed}")
    return label


def _labels(file: Path, names: tuple[str, ...] | None) -> Labels:
    """The labels alone, of images that stay on disk."""
    _, column = _columns(file)
    try:
        found = pq.read_table(file, columns=[column])[column].to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None
    classes = len(names) if names else None
    return np.asarray(
        [_label(label, f"{file}, row {row}", column, classes) for row, label in enumerate(found)], np.int64
    )


class ParquetImages:
    """The encoded images of Parquet files, for going through them once in their order: a row group is read at a time."""

    def __init__(self, folder: Path, files: list[Path], labels: Labels) -> None:
        """Look at the files' footers only: they, sizes and labels tell these files from others of the same names."""
        self.folder, self.files = folder, files
        digest = hashlib.sha256(labels.tobytes())
        for file in files:
            digest.update(f"{file.stat().st_size} {file.relative_to(folder)}".encode() + _footer(file))
        self.version = digest.hexdigest()
        self._lock = Lock()  # the decoders ask for the same row group at once
        groups, rows = [], [0]
        for file in files:
            footer = pq.read_metadata(file)
            for group in range(footer.num_row_groups):
                groups.append((file, group, rows[-1]))
                rows.append(rows[-1] + footer.row_group(group).num_rows)
        self._groups, self._rows = groups, np.asarray(rows)
        self._starts = {file: next((first for f, _, first in groups if f == file), 0) for file in files}
        self._read = lru_cache(maxsize=2)(_row_group)

    def __len__(self) -> int:
        """How many images."""
        return int(self._rows[-1])

    def name(self, number: int) -> str:
        """The file below the folder, and the row."""
        file, _, _ = self._group(number)
        return f"{file.relative_to(self.folder)}, row {number - self._starts[file]}"

    def where(self, number: int) -> str:
        """The file, and the row."""
        return str(self.folder / self.name(number))

    def content(self, number: int) -> bytes:
        """Raises ``DataError`` if the row holds none."""
        file, group, first = self._group(number)
        with self._lock:
            column, cells = self._read(file, group)
        return _bytes(cells[number - first].as_py(), self.where(number), column)

    def sizes(self, part: str) -> str:
        """Of the files."""
        return hash_of([file.stat().st_size for file in self.files])

    def _group(self, number: int) -> tuple[Path, int, int]:
        """File, row group in it, and number of the group's first image."""
        return self._groups[int(np.searchsorted(self._rows, number, side="right")) - 1]


def _footer(file: Path) -> bytes:
    """What a Parquet file says of its columns: it ends with its footer, the footer's length, and a mark."""
    with open(file, "rb") as content:
        content.seek(-8, os.SEEK_END)
        length = int.from_bytes(content.read(4), "little")
        content.seek(-8 - length, os.SEEK_END)
        return content.read(length)


def _row_group(file: Path, group: int) -> tuple[str, Any]:
    column, _ = _columns(file)
    try:
        return column, pq.ParquetFile(file).read_row_group(group, columns=[column])[column]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None
