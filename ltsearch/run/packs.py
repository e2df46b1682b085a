"""``resources: auto`` at work: packs are timed on a node, unless the store knows them; the best fills in what trials hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ltsearch.plan import placement, side_by_side
from ltsearch.plan.cells import Plan
from ltsearch.plan.placement import Node
from ltsearch.plan.side_by_side import Machine, Measured, Pack
from ltsearch.run.outstanding import Work, is_settled
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import hardware
from trainables.config import TrialConfig
from trainables.data import source_key
from trainables.errors import NoRoom, UserError

WAIT_SECONDS = 600.0  # for a node that nothing else runs on
ANSWER_SECONDS = 60.0  # of a node that is asked what it is
INSTEAD = "set resources.cpus_per_worker and gpus_per_worker"


def resolve(
    plan: Plan,
    work: Work,
    store: CellStore,
    nodes: Mapping[str, Node],
    say: Callable[[str], None],
    growing: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan with ``resources: auto`` filled in; as it is if it says what a trial holds. Ray is up.

    ``nodes``: those that answer, by Ray's ids; ``growing``: the configuration of a cluster that has more when it needs them.
    Raises ``UserError`` if nothing can be timed, or not even one trial runs.
    """
    resources = plan.loaded.spec.resources
    if not resources.auto:
        return plan
    side_by_side.check(work.configs)
    on = side_by_side.machine(resources, nodes)
    later = placement.at_most(resources, growing) if growing else []
    if on is None or (not on.gpu and (growing == {} or any(node.get("GPU", 0.0) for node in later))):
        what = "with GPUs, which it may get," if on else "with room for one"
        raise UserError(
            f"resources: auto times trials on a node, and there is none {what} yet: start one first, or {INSTEAD}"
        )
    left = _search_left(plan, work)
    trials = sum(not is_settled(cell.id, store) for cell in plan.cells) + left
    found = _known_or_timed(plan, work, store, on, left > 0, say)
    if found:
        chosen = side_by_side.choose(found, max(trials, 1), on.devices, resources.max_concurrent)
        pack, takes = chosen.pack, f" and {chosen.bytes / 2**30:.2g} GiB"
    else:
        pack, takes = (Pack(1, on.cores) if on.gpu else Pack(on.cores, 1)), ""
    where = "a GPU" if on.gpu else f"{on.cores} CPUs"
    say(f"resources: auto: {pack.trials} trials at once on {where}, {pack.threads} threads{takes} each")
    return plan.with_resources(side_by_side.fill_in(resources, pack, on))


def _search_left(plan: Plan, work: Work) -> int:
    """Trials of the search that are still to come."""
    search, study = plan.loaded.spec.search, work.study
    if search is None or plan.search_base is None:
        return 0
    if study is None:
        return search.trials
    return 0 if study.is_over() else max(search.trials + study.known() - study.ended(), 0)


def _known_or_timed(
    plan: Plan, work: Work, store: CellStore, on: Machine, searches: bool, say: Callable[[str], None]
) -> list[Measured]:
    """Empty if no node was free to time on."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    config = side_by_side.costliest(plan, work.configs, searches)
    there = NodeAffinitySchedulingStrategy(on.node, soft=False)
    try:
        asked = ray.remote(num_cpus=0)(hardware).options(scheduling_strategy=there).remote()
        key = side_by_side.kind(config, on, ray.get(asked, timeout=ANSWER_SECONDS))
        if known := side_by_side.known(store, key):
            return known
        say(f"resources: auto: a few steps of {config.method.name} are timed, so many trials side by side as may pay …")
        held: dict[str, Any] = {"num_cpus": on.cores, "num_gpus": int(on.gpu), "scheduling_strategy": there}
        timer = ray.remote(Timer).options(**held).remote()
        if not ray.wait([timer.ready.remote()], timeout=WAIT_SECONDS)[0]:
            ray.kill(timer)
            say(
                f"resources: auto: no node was free for {WAIT_SECONDS / 60:.0f} minutes to time trials on: a guess instead"
            )
            return []
        found = ray.get(timer.measure.remote(_request(config, work), on))
        ray.kill(timer)
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        why = lines[-1] if isinstance(error, ray.exceptions.RayTaskError) else lines[0]  # a traceback ends with it
        raise UserError(f"resources: auto: trials could not be timed ({why.strip()[:300]}): {INSTEAD}") from None
    if isinstance(found, str):
        raise UserError(f"resources: auto: not even one trial of {config.method.name} takes its first steps: {found}")
    timed: list[Measured] = found
    side_by_side.remember(store, key, timed)
    return timed


def _request(config: TrialConfig, work: Work) -> dict[str, Any]:
    from trainables.data.longtail import split

    data = split(config.data, work.data[source_key(config.data)])
    size = config.data.store_size or config.data.image_size or int(data.train.images.shape[-1])
    counts = data.class_counts.tolist()
    tree = config.model_dump(mode="json")
    return {"config": tree, "counts": counts, "size": size, "on_disk": config.data.stays_on_disk}


class Timer:
    """On a node, with all that is timed to itself."""

    def ready(self) -> None:
        """It has its place."""

    def measure(self, request: Mapping[str, Any], on: Machine) -> list[Measured] | str:
        """All packs that may pay; if not even a trial alone trains, why."""
        from trainables.probe import Request, Seen, train_together

        def probe(pack: Pack) -> list[Seen]:
            asked = Request(**request, device="cuda" if on.gpu else "cpu", threads=pack.threads)
            return train_together(asked, pack.trials)

        try:
            if on.gpu:
                return side_by_side.measure_gpu(on.cores, probe)
            return side_by_side.measure_cpus(on.cores, on.memory, probe)
        except NoRoom as error:
            return str(error)
