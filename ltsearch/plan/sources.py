"""The data sets of a sweep: read once by the driver, recognised again without reading them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from stat import S_ISFIFO
from typing import TYPE_CHECKING

from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from trainables.config import DataConfig, TrialConfig
from trainables.data import LARGE, SourceKey, source_key
from trainables.errors import DataError

if TYPE_CHECKING:
    from trainables.data.kept import Kept
    from trainables.data.longtail import TrialData
    from trainables.data.source import Source

_FOLDERS = {"cifar10": ("cifar-10-batches-py", "cifar10"), "cifar100": ("cifar-100-python", "cifar100")}


def data_root(option: str | None) -> Path:
    """``--data-root``, then LTSEARCH_DATA, then ``data`` in the working directory."""
    return Path(option or os.environ.get("LTSEARCH_DATA") or "data").absolute()


def signature(config: DataConfig, root: Path) -> str | None:
    """A hash of the paths, sizes and times of a data set's files; None if they are not there."""
    return _signature(source_key(config), root)


def _signature(source: SourceKey, root: Path) -> str | None:
    name, path, resize = source.name, source.path, source.resize
    if name == "digits":
        from importlib.metadata import version

        files = [("scikit-learn", version("scikit-learn"), 0)]
    else:
        folders = _FOLDERS.get(name, (path or name,))
        try:
            there = [root / f for f in folders if f and (root / f).is_dir()][:1]
            files = [stat for folder in there for stat in sorted(_stats(folder, root, source))]
        except OSError:  # what may not be looked at is not known; who reads it says why
            return None
    if not files:
        return None
    more = source[3:] if source[3:] != (False, "stop") else ()
    return hashlib.sha256(repr((name, path, resize and tuple(resize), *more, files)).encode()).hexdigest()[:16]


def _stats(folder: Path, root: Path, source: SourceKey) -> Iterator[tuple[str, str, int]]:
    """Path, size and time of what makes a data set.

    Its files; of published lists, the lists; of folders that stay on disk, which may hold half a million images, the folders.
    """
    alone, of_folders = source.name in LARGE, source.name == "folder" and source.on_disk
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        # What a sweep itself has put there is no part of the set.
        folders[:] = [] if alone else [one for one in folders if one != "pack" and not one.startswith("cache-")]
        if of_folders:
            paths = [Path(place)] if Path(place) != folder else []
        else:
            paths = [Path(place, name) for name in names if not alone or name.endswith(".txt")]
        for path in paths:
            with suppress(FileNotFoundError):  # a link that leads nowhere
                found = path.stat()
                if not S_ISFIFO(found.st_mode):
                    yield str(path.relative_to(root)), str(found.st_size), found.st_mtime_ns


def _raise(error: OSError) -> None:
    raise error


def stale_check(
    store: CellStore, root: Path, data: Mapping[SourceKey, Source] | None = None
) -> Callable[[CellRecord], bool]:
    """A predicate: was this record made from another content of its data set than lies below ``root`` now?

    Contents that have not been read since the files changed, and are not among ``data``, are unknown: nothing is stale because
    of them.
    """
    known: dict[SourceKey, str | None] = {where: source.fingerprint for where, source in (data or {}).items()}

    def stale(record: CellRecord) -> bool:
        config = DataConfig.model_validate(record.config["data"])
        if source_key(config) not in known:
            now = signature(config, root)
            known[source_key(config)] = store.known_fingerprint(now) if now else None
        fingerprint = known[source_key(config)]
        return bool(fingerprint and record.fingerprint and fingerprint != record.fingerprint)

    return stale


def content(store: CellStore, config: TrialConfig, root: Path) -> str | None:
    """The fingerprint of a configuration's data set as it lies there; None if it was not read since the files changed."""
    now = signature(config.data, root)
    return store.known_fingerprint(now) if now else None


def unread(configs: Iterable[TrialConfig], store: CellStore, root: Path) -> list[DataConfig]:
    """Data sets whose files lie there but were not read since they came or changed: what is in them is not known."""
    each = {
        source_key(config.data): config.data for config in configs
    }  # its files are looked at once, however many cells
    return [one for one in each.values() if (now := signature(one, root)) and store.known_fingerprint(now) is None]


def read_unread(
    configs: Iterable[TrialConfig], store: CellStore, root: Path, say: Callable[[str], None], images: Kept = "map"
) -> dict[SourceKey, Source]:
    """Read those, to know whether cells that are done are stale. Raises ``DataError``; writes nothing."""
    from trainables.data import read_source

    data: dict[SourceKey, Source] = {}
    for config in unread(configs, store, root):
        say(f"{config.path or config.name}: its files are new here, or have changed; reading them …")
        data[source_key(config)] = read_source(config, root, images)
    return data


def read(
    configs: Iterable[TrialConfig],
    root: Path,
    say: Callable[[str], None],
    known: Mapping[SourceKey, Source] | None = None,
    called: Callable[[TrialConfig], str] = lambda config: config.method.name,
    images: Kept = "map",
) -> dict[SourceKey, Source]:
    """Read every source that is needed and not ``known``, and check that each trial's images can be drawn and fill a batch.

    Raises ``DataError``; what a trial cannot make of its images names the trial as ``called`` does. ``images``: how those
    of large sets are kept. Writes nothing, but what a download brings.
    """
    from trainables.data import read_source
    from trainables.data.longtail import check_batches, split

    configs = list(configs)
    for backbone, start in {(c.model.backbone, c.model.pretrained) for c in configs if c.model.pretrained}:
        from trainables.models import pretrained  # torch and torchvision, which a driver needs for nothing else

        pretrained.fetch(backbone, start if isinstance(start, str) else None)  # here, once, and not in the first trial

    sources: dict[SourceKey, Source] = dict(known or {})

    def source(config: DataConfig) -> Source:
        if source_key(config) not in sources:
            say(f"reading {config.path or config.name} …")
            sources[source_key(config)] = read_source(config, root, images)
        return sources[source_key(config)]

    checked: set[str] = set()
    for config in configs:
        text = config.model_dump_json(include={"data", "training", "sampling", "method"})
        if text not in checked:
            checked.add(text)
            requires = [(role, first) for role, first in config.method.requires(config) if first.data != config.data]
            for needed in (config, *(first for _, first in requires)):
                source(needed.data)
            try:
                data = split(config.data, source(config.data))
                check_batches(config, data)
                for role, first in requires:
                    if first.data.shot_group is None:
                        _check_classes(config, data, role, split(first.data, source(first.data)))
            except DataError as error:
                raise DataError(f"{called(config)}: {error}") from None
    return sources


def _check_classes(config: TrialConfig, mine: TrialData, role: str, theirs: TrialData) -> None:
    """What a trial requires must know the same classes in the same order; raises ``DataError``."""
    if mine.class_names != theirs.class_names:
        here, there = (f"{data.name} ({', '.join(data.class_names[:4])}, …)" for data in (mine, theirs))
        raise DataError(
            f"{config.method.name} on the {len(mine.class_names)} classes of {here} requires a {role} on the "
            f"{len(theirs.class_names)} of {there}: they must be the same; leave `data.name` and `data.classes` out of "
            "what overrides it"
        )


def remember(store: CellStore, data: Mapping[SourceKey, Source], root: Path) -> None:
    """Keep the fingerprints of what was read, so that the next start need not read it to know them."""
    for where, source in data.items():
        now = _signature(where, root)
        if now is not None and store.known_fingerprint(now) != source.fingerprint:
            store.remember_fingerprint(now, source.fingerprint)
