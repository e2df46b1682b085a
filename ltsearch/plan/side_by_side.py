"""``resources: auto``: how many trials one machine trains side by side, chosen by what ends the sweep first.

A few steps of the costliest configuration are taken by so many processes at once (``trainables.probe``), once for every kind of
configuration, machine and version; what was seen is kept in the store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trainables.probe import Seen

MEMORY = 0.85  # of a device's or machine's, that trials may take together
GAIN = 1.05  # a larger pack must train so much more per second than the last one that did
MOST = 16  # trials on one GPU


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


def measure_cpus(cores: int, memory: float, probe: Callable[[Pack], Sequence[Seen] | None]) -> list[Measured]:
    """Every pack that memory (in bytes) has room for; the smallest is always looked at, and tells how much a trial takes."""
    alone = probe(Pack(1, cores))
    if alone is None:
        return []
    found = [Measured.of(Pack(1, cores), alone)]
    for pack in on_cpus(cores):
        if pack.trials == 1 or pack.trials * found[0].bytes > MEMORY * memory:
            continue
        if (seen := probe(pack)) is not None:
            found.append(Measured.of(pack, seen))
    return found


def measure_gpu(cores: int, memory: float, probe: Callable[[Pack], Sequence[Seen] | None]) -> list[Measured]:
    """Larger and larger packs, until one trains no more than the one before or has no room."""
    found: list[Measured] = []
    for pack in on_gpu(cores):
        if found and pack.trials * found[0].bytes > MEMORY * memory:
            break
        if (seen := probe(pack)) is None:
            break
        found.append(Measured.of(pack, seen))
        if len(found) > 1 and _rate(found[-1]) < GAIN * _rate(found[-2]):
            break
    return found


def _rate(measured: Measured) -> float:
    return measured.pack.trials * measured.steps


def choose(found: Sequence[Measured], trials: int, devices: int = 1) -> Measured:
    """What ends so many trials first; of equals the one with fewer at once, which needs less memory."""
    return min(found, key=lambda measured: (round(measured.seconds(trials, devices), 9), measured.pack.trials))
