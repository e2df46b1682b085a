"""``resources: auto``: how many trials one machine trains side by side, chosen by what ends the sweep first.

A few steps of the costliest configuration are taken by so many processes at once (``trainables.probe``), once for every kind of
configuration, machine and version; what was seen is kept in the store (``packs.json``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import ltsearch
from ltsearch.plan import estimate
from ltsearch.store.cells import CellStore
from ltsearch.study.spec import Resources
from trainables.config import TrialConfig
from trainables.errors import NoRoom, UserError
from trainables.files import write_text

if TYPE_CHECKING:
    from trainables.probe import Seen

MEMORY = 0.85  # of a device's or machine's, that trials may take together
GAIN = 1.05  # a larger pack must train so much more per second than the last one that did
MOST = 16  # trials on one GPU
FILE = "packs.json"  # in the store: what was measured, by kind and machine


@dataclass(frozen=True)
class Pack:
    """So many trials at once on a device (CPUs together are one), each with so many threads."""

    trials: int
    threads: int


@dataclass(frozen=True)
class Measured:
    """A pack, and what its processes saw: ``steps`` a second of one trial, and ``bytes`` of the one that holds most."""

    pack: Pack
    steps: float
    bytes: float

    @classmethod
    def of(cls, pack: Pack, seen: Sequence[Seen]) -> Measured:
        """The slowest one's pace: a sweep ends with its last trial."""
        return cls(pack, min(s.steps_per_second for s in seen), max(s.peak_bytes for s in seen))

    def seconds(self, trials: int, devices: int = 1) -> float:
        """How long so many trials take, in units of one step each: rounds of as many as fit."""
        return math.ceil(trials / (self.pack.trials * devices)) / self.steps


def on_cpus(cores: int) -> Iterator[Pack]:
    """From a trial a core to one trial on all of them, by halves."""
    threads = 1
    while cores // threads > 1:
        yield Pack(cores // threads, threads)
        threads *= 2
    yield Pack(1, cores)


def on_gpu(cores: int) -> Iterator[Pack]:
    """From one trial on, doubled; a trial needs a core of its own."""
    trials = 1
    while trials <= min(cores, MOST):
        yield Pack(trials, max(1, cores // trials))
        trials *= 2


def measure_cpus(cores: int, memory: float, probe: Callable[[Pack], Sequence[Seen]]) -> list[Measured]:
    """Every pack that memory (in bytes) has room for; the smallest is always looked at, and tells how much a trial takes.

    Raises ``NoRoom``, as ``probe`` does, if not even that one trains.
    """
    found = [Measured.of(Pack(1, cores), probe(Pack(1, cores)))]
    for pack in on_cpus(cores):
        if pack.trials > 1 and pack.trials * found[0].bytes <= MEMORY * memory:
            with suppress(NoRoom):
                found.append(Measured.of(pack, probe(pack)))
    return found


def measure_gpu(cores: int, probe: Callable[[Pack], Sequence[Seen]]) -> list[Measured]:
    """Larger and larger packs, until one trains no more than the one before or has no room; raises as for CPUs."""
    alone = probe(Pack(1, cores))
    found, room = [Measured.of(Pack(1, cores), alone)], alone[0].room_bytes
    for pack in on_gpu(cores):
        if pack.trials == 1:
            continue
        if pack.trials * found[0].bytes > MEMORY * room:
            break
        try:
            found.append(Measured.of(pack, probe(pack)))
        except NoRoom:
            break
        if _rate(found[-1]) < GAIN * _rate(found[-2]):
            break
    return found


def _rate(measured: Measured) -> float:
    return measured.pack.trials * measured.steps


def choose(found: Sequence[Measured], trials: int, devices: int = 1, at_most: int | None = None) -> Measured:
    """What ends so many trials first, ``at_most`` so many at once; of equals the one with fewer, which needs less memory."""
    small = [measured for measured in found if at_most is None or measured.pack.trials <= at_most]
    found = small or [min(found, key=lambda measured: measured.pack.trials)]
    return min(found, key=lambda measured: (round(measured.seconds(trials, devices), 9), measured.pack.trials))


# -- which configuration, and what is known of it -------------------------------------------------------------------------


def costliest(configs: Iterable[TrialConfig]) -> TrialConfig:
    """The configuration of the most work a step, of those that need no earlier trial's weights if there are such."""
    found = list(configs)
    alone = [config for config in found if not config.method.requires(config)]
    return max(alone or [first for config in found for _, first in config.method.requires(config)], key=estimate.step)


def check(configs: Iterable[TrialConfig]) -> None:
    """Raises ``UserError`` for trials of which no few steps can be taken."""
    for config in configs:
        if config.custom is not None or config.synthetic is not None:
            raise UserError(
                f"resources: auto takes a few steps of the trainer to see what a trial needs, which "
                f"{'custom.function' if config.custom is not None else 'synthetic'} does not have: set "
                "resources.cpus_per_worker and gpus_per_worker instead"
            )


def kind(config: TrialConfig, machine: Mapping[str, str]) -> str:
    """What decides pace and memory: the shape of the step, the machine (``provenance.hardware``), the version."""
    model, data = config.model, config.data
    shape = [
        f"{config.method.name}, K = {model.experts}, T = {config.augmentation.copies}, {config.augmentation.policy}",
        f"{model.backbone} {model.stem or ''} {model.shared}".replace("  ", " "),
        f"{data.path or data.name} {data.store_size or data.image_size or ''}".strip(),
        f"{config.training.batch_size} images, {config.training.precision}",
        f"{machine['cpu']}; GPU: {machine['gpu']}",
        f"ltsearch {ltsearch.__version__}",
    ]
    return "; ".join(shape)


def known(store: CellStore, key: str) -> list[Measured]:
    """What was measured for this kind before; empty if nothing was, or the file is not readable."""
    try:
        return [Measured(Pack(**one["pack"]), one["steps"], one["bytes"]) for one in _read(store)[key]]
    except (KeyError, TypeError):
        return []


def remember(store: CellStore, key: str, found: Sequence[Measured]) -> None:
    """Keep it for the next sweep."""
    write_text(store.root / FILE, json.dumps(_read(store) | {key: [asdict(one) for one in found]}, indent=1))


def _read(store: CellStore) -> dict[str, Any]:
    try:
        there = json.loads((store.root / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return there if isinstance(there, dict) else {}


def fill_in(resources: Resources, chosen: Measured, gpus: bool) -> Resources:
    """What one trial holds in this pack."""
    over = {"auto": False, "cpus_per_worker": float(chosen.pack.threads)}
    return resources.model_copy(update=over | ({"gpus_per_worker": 1 / chosen.pack.trials} if gpus else {}))
