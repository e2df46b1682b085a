"""``resources: auto`` at work: packs are timed on a node, unless the store knows them; the best fills in what trials hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ltsearch.plan import side_by_side
from ltsearch.plan.cells import Plan
from ltsearch.plan.placement import Node
from ltsearch.plan.side_by_side import Measured, Pack
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import hardware
from trainables.config import TrialConfig
from trainables.data import SourceKey, source_key
from trainables.data.source import Source
from trainables.errors import NoRoom, UserError

WAIT_SECONDS = 600.0  # for a node that nothing else runs on


def resolve(
    plan: Plan,
    configs: Sequence[TrialConfig],
    data: Mapping[SourceKey, Source],
    store: CellStore,
    nodes: Mapping[str, Node],
    say: Callable[[str], None],
) -> Plan:
    """The plan with ``resources: auto`` filled in; as it is if it says what a trial holds. Ray is up.

    ``configs``: still to be trained; ``nodes``: by Ray's ids. Raises ``UserError`` if not even one trial runs there.
    """
    resources = plan.loaded.spec.resources
    if not resources.auto:
        return plan
    gpus = sum(node.get("GPU", 0.0) for node in nodes.values())
    fit = {name: node for name, node in nodes.items() if node.get("GPU" if gpus else "CPU", 0.0) >= 1}
    if not fit:
        raise UserError(
            "resources: auto times trials on a node, and there is none with room for one yet: start one first, or set "
            "resources.cpus_per_worker and gpus_per_worker"
        )
    config = side_by_side.costliest(configs)
    # On the smallest: what fits there fits everywhere.
    name = min(fit, key=lambda node: (fit[node].get("CPU", 0.0), fit[node].get("memory", 0.0), node))
    chosen = _choose(plan, config, len(configs), data, store, name, fit, say)
    filled = side_by_side.fill_in(resources, chosen, bool(gpus))
    where = "a GPU" if gpus else f"{_cores(fit[name], gpus)} CPUs"
    say(
        f"resources: auto: {chosen.pack.trials} trials at once on {where}, {chosen.pack.threads} threads and "
        f"{chosen.bytes / 2**30:.2g} GiB each"
    )
    return plan.with_resources(filled)


def _choose(
    plan: Plan,
    config: TrialConfig,
    cells: int,
    data: Mapping[SourceKey, Source],
    store: CellStore,
    name: str,
    fit: Mapping[str, Node],
    say: Callable[[str], None],
) -> Measured:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    resources, search, node = plan.loaded.spec.resources, plan.loaded.spec.search, fit[name]
    gpus = sum(other.get("GPU", 0.0) for other in fit.values())
    devices = int(gpus) or len(fit)
    trials = cells + (search.trials if search is not None and plan.search_base is not None else 0)
    cores = _cores(node, gpus)
    there = NodeAffinitySchedulingStrategy(name, soft=False)
    machine = ray.get(ray.remote(num_cpus=0)(hardware).options(scheduling_strategy=there).remote())
    key = side_by_side.kind(config, machine)
    found = side_by_side.known(store, key)
    if not found:
        say(f"resources: auto: a few steps of {config.method.name} are timed, so many trials side by side as may pay …")
        source = data[source_key(config.data)]
        size = config.data.store_size or config.data.image_size or int(source.train.images[:1].shape[-1])
        request = {"config": config.model_dump(mode="json"), "classes": len(source.class_names), "size": size}
        task = ray.remote(num_cpus=cores, num_gpus=1 if gpus else 0, max_calls=1, max_retries=0)(measure)
        answer = task.options(scheduling_strategy=there).remote(request, cores, node.get("memory", 0.0), bool(gpus))
        if not ray.wait([answer], timeout=WAIT_SECONDS)[0]:
            ray.cancel(answer, force=True)
            raise UserError(
                f"resources: auto: no node was free for {WAIT_SECONDS / 60:.0f} minutes to time trials on: type the command "
                "again later, or set resources.cpus_per_worker and gpus_per_worker"
            )
        found = ray.get(answer)
        if isinstance(found, str):
            raise UserError(
                f"resources: auto: not even one trial of {config.method.name} takes its first steps: {found}"
            )
        side_by_side.remember(store, key, found)
    return side_by_side.choose(found, trials, devices, resources.max_concurrent if devices == 1 else None)


def _cores(node: Node, gpus: float) -> int:
    """Of a GPU's share of the node, or all of it."""
    return max(1, int(node.get("CPU", 1.0) / (max(node.get("GPU", 0.0), 1.0) if gpus else 1.0)))


def measure(request: Mapping[str, Any], cores: int, memory: float, gpu: bool) -> list[Measured] | str:
    """On a node: all packs that may pay; if not even a trial alone trains, why."""
    from trainables.probe import Request, Seen
    from trainables.probe import side_by_side as together

    def probe(pack: Pack) -> list[Seen]:
        return together(Request(**request, device="cuda" if gpu else "cpu", threads=pack.threads), pack.trials)

    try:
        return side_by_side.measure_gpu(cores, probe) if gpu else side_by_side.measure_cpus(cores, memory, probe)
    except NoRoom as error:
        return str(error)
