"""The data sets of a sweep: read once by the driver, recognised again without reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ltsearch.records import CellRecord
from ltsearch.store import CellStore
from trainables.config import DataConfig, TrialConfig

if TYPE_CHECKING:
    from trainables.data import Source

SourceKey = tuple[str, str | None, int | None]
_LISTS = ("imagenet_lt", "places_lt", "inaturalist2018")  # known by their lists: their images are too many to look at
_FOLDERS = {"cifar10": ("cifar-10-batches-py", "cifar10"), "cifar100": ("cifar-100-python", "cifar100")}


def data_root(option: str | None) -> Path:
    """``--data-root``, then LTSEARCH_DATA, then ``data`` in the working directory."""
    return Path(option or os.environ.get("LTSEARCH_DATA") or "data").absolute()


def key(config: DataConfig) -> SourceKey:
    """Trials with the same key share one source."""
    return config.name, config.path, config.stored_size


def signature(config: DataConfig, root: Path) -> str | None:
    """A hash of the paths, sizes and times of a data set's files; None if they are not there."""
    if config.name == "digits":
        from importlib.metadata import version

        files = [("scikit-learn", version("scikit-learn"), 0)]
    else:
        folders = _FOLDERS.get(config.name, (config.path or config.name,))
        there = [root / f for f in folders if f and (root / f).is_dir()][:1]
        pattern = "*.txt" if config.name in _LISTS else "*"
        found = sorted(
            p
            for folder in there
            for p in (folder.glob if config.name in _LISTS else folder.rglob)(pattern)
            if p.is_file()
        )
        files = [(str(p.relative_to(root)), str(p.stat().st_size), p.stat().st_mtime_ns) for p in found]
    if not files:
        return None
    return hashlib.sha256(repr((config.name, config.path, config.stored_size, files)).encode()).hexdigest()[:16]


def stale_check(store: CellStore, root: Path) -> Callable[[CellRecord], bool]:
    """A predicate: was this record made from another content of its data set than lies below ``root`` now?

    Contents that have not been read since the files changed are unknown, and nothing is stale because of them.
    """
    known: dict[SourceKey, str | None] = {}

    def stale(record: CellRecord) -> bool:
        config = TrialConfig.model_validate(record.config).data
        if key(config) not in known:
            now = signature(config, root)
            known[key(config)] = store.known_fingerprint(now) if now else None
        fingerprint = known[key(config)]
        return bool(fingerprint and record.fingerprint and fingerprint != record.fingerprint)

    return stale


def content(store: CellStore, config: TrialConfig, root: Path) -> str | None:
    """The fingerprint of a configuration's data set as it lies there; None if it was not read since the files changed."""
    now = signature(config.data, root)
    return store.known_fingerprint(now) if now else None


def read(
    configs: Iterable[TrialConfig],
    root: Path,
    say: Callable[[str], None],
    known: Mapping[SourceKey, Source] | None = None,
) -> dict[SourceKey, Source]:
    """Read every source that is needed and not ``known``, and check that each trial's images can be drawn and fill a batch.

    Raises ``DataError``. Writes nothing (but what a download brings).
    """
    from trainables.data import check_batches, read_source, split
    from trainables.models import pretrained

    configs = list(configs)
    for backbone in {config.model.backbone for config in configs if config.model.pretrained}:
        pretrained.fetch(backbone)  # here, once, and not in the first trial

    sources: dict[SourceKey, Source] = dict(known or {})
    checked: set[str] = set()
    for config in configs:
        if key(config.data) not in sources:
            say(f"reading {config.data.path or config.data.name} …")
            sources[key(config.data)] = read_source(config.data, root)
        text = config.data.model_dump_json() + config.training.model_dump_json()
        if text not in checked:
            checked.add(text)
            check_batches(config, split(config.data, sources[key(config.data)]))
    return sources


def remember(store: CellStore, configs: Iterable[TrialConfig], sources: Mapping[SourceKey, Source], root: Path) -> None:
    """Keep the fingerprints of what was read, so that the next start need not read it to know them."""
    for data in {key(config.data): config.data for config in configs}.values():
        now = signature(data, root)
        if now is not None and store.known_fingerprint(now) != sources[key(data)].fingerprint:
            store.remember_fingerprint(now, sources[key(data)].fingerprint)
