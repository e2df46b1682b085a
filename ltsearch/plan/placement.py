"""Does a trial fit, and how many of them at once? Without Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ltsearch.store.provenance import gpu_names, usable_cpus
from ltsearch.study.spec import Resources
from trainables.config import TrialConfig
from trainables.errors import UserError

Node = Mapping[str, float]  # CPU, GPU


def this_machine() -> list[Node]:
    """CPUs and GPUs of this machine, as a cluster of one node."""
    return [{"CPU": float(usable_cpus()), "GPU": float(len(gpu_names()))}]


def at_once(resources: Resources, nodes: Sequence[Node]) -> int:
    """How many trials fit at once. A worker lies on one node, the workers of a trial on one or several."""
    return sum(_workers(resources, node) for node in nodes) // resources.workers


def _workers(resources: Resources, node: Node) -> int:
    """How many workers fit on a node."""
    return min(int(node.get(kind, 0) / wanted + 1e-9) for kind, wanted in _need(resources).items() if wanted)


def at_most(resources: Resources, config: Mapping[str, Any]) -> list[Node]:
    """The nodes that an autoscaling cluster may have, from its configuration (Ray's cluster YAML, filled in by ``ray up``).

    Of several node types within ``max_workers``, those first that take most workers of a trial.
    """
    left, head = int(config.get("max_workers", 0)), config.get("head_node_type")
    nodes: list[Node] = []
    kinds: list[tuple[Node, int]] = []
    for name, kind in config.get("available_node_types", {}).items():
        node = {k: float(v) for k, v in (kind.get("resources") or {}).items() if k in ("CPU", "GPU")}
        if name == head:
            nodes.append(node)
        else:
            kinds.append((node, int(kind.get("max_workers", left))))
    for offered, most in sorted(kinds, key=lambda kind: -_workers(resources, kind[0])):
        count = min(most, left)
        left -= count
        nodes += [offered] * count
    return nodes


def check(resources: Resources, nodes: Sequence[Node]) -> int:
    """The same, at most ``max_concurrent``; raises ``UserError`` saying what is missing if not even one fits."""
    fit = at_once(resources, nodes)
    if fit:
        return min(fit, resources.max_concurrent or fit)
    lacking = [
        f"{wanted:g} {kind}s (the largest node has {max((node.get(kind, 0) for node in nodes), default=0):g})"
        for kind, wanted in _need(resources).items()
        if wanted > max((node.get(kind, 0) for node in nodes), default=0)
    ]
    if resources.workers > 1:
        who, of = "one worker of a trial", f"room for {resources.workers} workers ({describe(resources)} each)"
    else:
        who, of = "one trial", "more of both CPUs and GPUs than any one node has"
    raise UserError(
        f"resources: {who if lacking else 'one trial'} needs {' and '.join(lacking) or of}; lower resources.workers, "
        "cpus_per_worker or gpus_per_worker, or add nodes"
    )


def check_workers(resources: Resources, configs: Iterable[TrialConfig]) -> None:
    """Raises ``UserError`` if a trial cannot be split over its workers."""
    workers = resources.workers
    if workers > 1 and 0 < resources.gpus_per_worker < 1:
        raise UserError(
            f"resources.gpus_per_worker = {resources.gpus_per_worker:g}: with {workers} workers a trial needs a whole GPU for "
            "each (NCCL refuses two on one); use 1, or `workers: 1`"
        )
    for config in configs if workers > 1 else ():
        training = config.training
        if training.batch_size % workers:
            raise UserError(
                f"resources.workers = {workers} does not divide training.batch_size = {training.batch_size}; every worker "
                "takes the same share of a batch: change one of the two"
            )
        if training.batch_norm_groups > 1 and training.batch_norm_groups % workers:
            raise UserError(
                f"resources.workers = {workers} does not divide training.batch_norm_groups = {training.batch_norm_groups}; "
                "use 1 (synchronised) or a multiple of the workers"
            )


def describe(resources: Resources) -> str:
    """What a worker holds."""
    parts = [f"{resources.cpus_per_worker:g} CPU"]
    return ", ".join(parts + ([f"{resources.gpus_per_worker:g} GPU"] if resources.gpus_per_worker else []))


def _need(resources: Resources) -> dict[str, float]:
    """Of one worker."""
    return {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
