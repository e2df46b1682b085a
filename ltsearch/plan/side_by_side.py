"""``resources: auto``: how many trials one machine trains side by side, chosen by what ends the sweep first.

A few steps of the costliest configuration are taken by so many processes at once (``trainables.probe``), once for every kind of
configuration, machine and version; what was seen is kept in the store (``packs.json``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import ltsearch
from ltsearch.plan import estimate, placement
from ltsearch.plan.cells import Plan
from ltsearch.plan.placement import Node
from ltsearch.plan.searched import search_cell
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


def choose(found: Sequence[Measured], trials: int, devices: int = 1, at_once: int | None = None) -> Measured:
    """What ends so many trials first, ``at_once`` at most; of equals that with fewer, which takes less memory."""
    most = math.inf if at_once is None else math.ceil(at_once / devices)
    small = [measured for measured in found if measured.pack.trials <= most]
    found = small or [min(found, key=lambda measured: measured.pack.trials)]
    return min(found, key=lambda measured: (round(measured.seconds(trials, devices), 9), measured.pack.trials))


# -- what is timed, and where --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """What a pack is for: a GPU with its share of the node's cores, or all cores of a node; ``devices`` there are of them."""

    node: str  # by Ray's id, or any name
    gpu: bool
    cores: int
    memory: float  # bytes of the node, where that is known
    devices: int


def machine(resources: Resources, nodes: Mapping[str, Node]) -> Machine | None:
    """The one to time, of those that trials may go to: that with fewest cores for each, whose pack fits on all the others.

    None if there is none. GPUs are taken to be alike, or of ``resources.accelerator``.
    """
    may = {name: node for name, node in nodes.items() if placement.at_once(resources, [node])}
    gpu = any(node.get("GPU", 0.0) >= 1 for node in may.values())
    found = []
    for name, node in may.items():
        here = int(node.get("GPU", 0.0)) if gpu else 1
        if here:
            found.append(Machine(name, gpu, max(1, int(node["CPU"] / here)), node.get("memory", math.inf), here))
    if not found:
        return None
    least = min(found, key=lambda one: (one.cores, one.memory, one.node))
    return replace(least, devices=sum(one.devices for one in found))


def costliest(plan: Plan, configs: Iterable[TrialConfig], searches: bool) -> TrialConfig:
    """Of what is left, and of the space of a search that goes on, the configuration of the most work a step, to be timed.

    If it begins with other trials' weights, which are not there yet, it is timed as BSCE on the same network and images.
    """
    found = [*configs, *([largest] if searches and (largest := _largest(plan)) is not None else [])]
    config = max(found, key=estimate.step)
    if not config.method.requires(config):
        return config
    return TrialConfig.model_validate(config.model_dump(mode="json") | {"method": {"name": "bsce"}})


def _largest(plan: Plan) -> TrialConfig | None:
    """Of a search: every parameter at the value with the most work, if that is valid, else the one that matters most."""
    search, base = plan.loaded.spec.search, plan.search_base
    if search is None or base is None:
        return None
    found, chosen = [base], dict[str, Any]()
    for name, parameter in search.space.items():
        conditions = {k: v[0] if isinstance(v, list) else v for k, v in (parameter.when or {}).items()}
        made = [
            (search_cell(plan, {**conditions, name: v}).config, {**conditions, name: v})
            for v in parameter.sample_values()
        ]
        config, choice = max(made, key=lambda one: estimate.step(one[0]))
        if estimate.step(config) > estimate.step(base):
            found.append(config)
            chosen |= choice
    with suppress(UserError):
        found.append(search_cell(plan, chosen).config)
    return max(found, key=estimate.step)


def check(configs: Iterable[TrialConfig]) -> None:
    """Raises ``UserError`` for trials of which no few steps can be taken."""
    for config in configs:
        what = "custom.function" if config.custom is not None else "synthetic" if config.synthetic is not None else ""
        if what or config.data.whole:
            why = f"takes a few steps of the trainer, which {what} does not have"
            raise UserError(
                f"resources: auto {why if what else 'does not time windows of whole pictures (data.aspect: whole)'}: set "
                "resources.cpus_per_worker and gpus_per_worker instead"
            )


def kind(config: TrialConfig, on: Machine, hardware: Mapping[str, str]) -> str:
    """What decides pace and memory: the shape of the step, the machine (with ``provenance.hardware``), the versions."""
    model, data, training = config.model, config.data, config.training
    shape = [
        f"{config.method.name}, K = {model.experts}, T = {config.augmentation.copies}, {config.augmentation.policy}",
        f"{model.backbone} {model.stem or ''} {model.shared} {model.classifier}".replace("  ", " "),
        f"{data.path or data.name} {data.store_size or data.image_size or ''}".strip(),
        f"{training.batch_size} images, {training.precision}{', deterministic' if training.deterministic else ''}",
        f"{on.cores} cores of {hardware['cpu']}; " + (f"a GPU of {hardware['gpu']}" if on.gpu else "no GPU"),
        f"ltsearch {ltsearch.__version__}, torch {version('torch')}",
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


def fill_in(resources: Resources, pack: Pack, on: Machine) -> Resources:
    """What one trial holds in this pack."""
    over: dict[str, object] = {"auto": False, "cpus_per_worker": float(pack.threads)}
    return resources.model_copy(update=over | ({"gpus_per_worker": 1 / pack.trials} if on.gpu else {}))
