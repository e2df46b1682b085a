"""Long-tailed subsets: how many images of each class, which ones, and what is held out.

Legend: ``C`` classes, ``n_j`` training images of class j, ``IF`` the imbalance factor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables import sampling
from trainables.data.kept import NO_WINDOWS
from trainables.data.on_disk import MappedImages, take
from trainables.data.source import Part, Source
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.config import DataConfig, ImbalanceConfig, TrialConfig

Counts = NDArray[np.int64]
# Images of a class in each shot group, from and up to: many > 100, medium 20..100, few < 20.
SHOT_BOUNDS: dict[str, tuple[float, float]] = {"many": (101, np.inf), "medium": (20, 100), "few": (1, 19)}


@dataclass(frozen=True)
class TrialData:
    """What one trial trains on and is evaluated on."""

    name: str
    class_names: tuple[str, ...]
    train: Part
    evaluation: Part
    split: str  # "val" or "test": which images `evaluation` holds
    class_counts: Counts  # [C], images that are trained on
    fingerprint: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def profile_counts(config: ImbalanceConfig, available: Counts) -> Counts:
    """``[C]`` images a class, in label order (Cui et al., CVPR 2019; LDAM-DRW's code).

    ``n_max`` is the size of the smallest class, which for CIFAR is every class. Exponential:
    ``n_i = int(n_max · IF^(-i/(C-1)))``; step: ``n_max`` for the first half, ``int(n_max/IF)`` for the second.
    """
    if config.profile == "natural":
        return available.copy()
    classes, top = len(available), int(available.min())
    if config.profile == "exponential":
        counts = [int(top * config.factor ** (-i / max(classes - 1, 1))) for i in range(classes)]
    else:
        counts = [top if i < classes // 2 else int(top / config.factor) for i in range(classes)]
    return np.maximum(np.asarray(counts, np.int64), 1)


def split(config: DataConfig, source: Source) -> TrialData:
    """Draw the trial's images from a source.

    One in-place shuffle of each class's indices, classes in order, by NumPy's legacy ``RandomState(subset_seed)``.
    Validation images are the last ``val_per_class`` of each pool, so that class j trains on the first
    ``min(n_j, pool - val)`` and only head classes shrink. A set with its own validation split uses that one; with natural
    counts and none, ``min(val_per_class, n_j // 5)`` are held out. ``data_ratio`` keeps ``max(1, int(n_j · r))``.

    ``classes`` restricts the source before, ``shot_group`` the result; classes are numbered anew.

    Raises ``DataError`` if a class has too few images, is not known, or a shot group is empty.
    """
    if config.whole and isinstance(source.train.images, MappedImages):
        raise DataError(NO_WINDOWS)
    if config.classes:
        source = _only(source, config.classes)
    labels, classes = source.train.labels, len(source.class_names)
    available = np.bincount(labels, minlength=classes)
    counts = profile_counts(config.imbalance, available)
    official = config.val_per_class > 0 and source.validation is not None
    held = np.zeros(classes, np.int64)
    if config.val_per_class and not official:
        held[:] = config.val_per_class
        if config.imbalance.profile == "natural":
            held = np.minimum(held, available // 5)
    random = np.random.RandomState(config.imbalance.subset_seed)
    train_index, val_index = [], []
    for j in range(classes):
        pool = np.flatnonzero(labels == j)
        random.shuffle(pool)
        left = len(pool) - held[j]
        if left < 1:
            raise DataError(
                f"{source.name}: data.val_per_class = {config.val_per_class} leaves no training image of class "
                f"{source.class_names[j]!r}, which has {len(pool)}; the most is {int(available.min()) - 1}"
            )
        keep = max(1, int(min(counts[j], left) * config.data_ratio + 1e-9))
        train_index.append(pool[:keep])
        val_index.append(pool[left:])
    index = np.concatenate(train_index)
    if not config.val_per_class:
        evaluation, name = source.test, "test"
    elif official:
        assert source.validation is not None
        evaluation, name = source.validation, "val"
    else:
        chosen = np.concatenate(val_index)
        evaluation, name = Part(take(source.train.images, chosen), labels[chosen]), "val"
    found = TrialData(
        name=source.name,
        class_names=source.class_names,
        train=Part(
            take(source.train.images, index, labels[index] if config.unreadable == "skip" else None), labels[index]
        ),
        evaluation=evaluation,
        split=name,
        class_counts=np.asarray([len(i) for i in train_index], np.int64),
        fingerprint=source.fingerprint,
        mean=source.mean,
        std=source.std,
    )
    return found if config.shot_group is None else _group(found, config.shot_group)


def _only(source: Source, names: tuple[str, ...]) -> Source:
    """Some classes of a source."""
    unknown = [name for name in names if name not in source.class_names]
    if unknown or len(names) < 2:
        raise DataError(
            f"{source.name}: data.classes = {list(names)}: "
            + (f"no class {unknown[0]!r}" if unknown else "at least two are needed")
            + f"; classes: {', '.join(source.class_names[:30])}{' …' if len(source.class_names) > 30 else ''}"
        )
    kept = np.asarray([j for j, name in enumerate(source.class_names) if name in names])
    return replace(
        source,
        class_names=tuple(source.class_names[j] for j in kept),
        train=_of_classes(source.train, kept),
        test=_of_classes(source.test, kept),
        validation=None if source.validation is None else _of_classes(source.validation, kept),
    )


def _of_classes(part: Part, kept: NDArray[np.int64]) -> Part:
    """Images of the classes ``kept``, numbered anew."""
    chosen = np.flatnonzero(np.isin(part.labels, kept))
    return Part(take(part.images, chosen), np.searchsorted(kept, part.labels[chosen]))


def _group(data: TrialData, group: str) -> TrialData:
    """The classes of one shot group."""
    low, high = SHOT_BOUNDS[group]
    kept = np.flatnonzero((data.class_counts >= low) & (data.class_counts <= high))
    if len(kept) == 0:
        raise DataError(
            f"{data.name}: data.shot_group = {group!r}: no class has {low:g} to {high:g} training images; the classes have "
            f"{data.class_counts.min()} to {data.class_counts.max()}"
        )
    return replace(
        data,
        class_names=tuple(data.class_names[j] for j in kept),
        train=_of_classes(data.train, kept),
        evaluation=_of_classes(data.evaluation, kept),
        class_counts=data.class_counts[kept],
    )


def check_batches(config: TrialConfig, data: TrialData) -> None:
    """An epoch must hold at least one optimiser step; raises ``DataError``."""
    training, sampled = config.training, config.loop.sampling
    for rule in (sampled, *config.method.streams(config)):
        sampling.check(rule, data.class_counts, data.class_names, training.batch_size)
    try:
        config.method.check_data(config, data.class_counts)
    except ValueError as error:
        raise DataError(f"{data.name}: {error}") from None
    images = sampling.size(sampled, data.class_counts)
    batches = max(images // training.batch_size, 1)  # a set that is smaller than a batch is one
    if images < training.batch_size and images % training.batch_norm_groups:
        raise DataError(
            f"training.batch_norm_groups = {training.batch_norm_groups} does not divide the {images} images of {data.name}, "
            f"which are fewer than training.batch_size = {training.batch_size}; use 1, or a smaller batch"
        )
    if batches < training.accumulate:
        raise DataError(
            f"training.accumulate = {training.accumulate} needs as many batches an epoch, but {images} images of "
            f"{data.name} make {batches} of training.batch_size = {training.batch_size}; lower one of the two"
        )
