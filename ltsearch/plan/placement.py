"""Does a trial fit, and how many of them at once? Without Ray."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ltsearch.store.provenance import gpu_names, usable_cpus
from ltsearch.study.spec import ACCELERATOR, Resources
from trainables.config import TrialConfig
from trainables.errors import UserError

MUCH = 2.0**60  # of what is not known
Node = Mapping[str, float]  # CPU, GPU, accelerator_type:…; memory in bytes, where it is known


def this_machine() -> list[Node]:
    """CPUs and GPUs of this machine, as a cluster of one node."""
    gpus = len(gpu_names())
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # as Ray counts them
        gpus = min(gpus, len([one for one in visible.split(",") if one.strip() not in ("", "-1")]))
    return [{"CPU": float(usable_cpus()), "GPU": float(gpus)}]


def at_once(resources: Resources, nodes: Sequence[Node]) -> int:
    """How many trials fit at once. A worker lies on one node, the workers of a trial on one or several."""
    return sum(_workers(resources, node) for node in nodes) // resources.workers


def _workers(resources: Resources, node: Node) -> int:
    """How many workers fit on a node."""
    return min(int(_has(node, kind) / wanted + 1e-9) for kind, wanted in resources.need().items() if wanted)


def _has(node: Node, kind: str) -> float:
    """Only Ray knows memory and types of GPUs: of a node that it has not described, they are not counted."""
    return node.get(kind, 0.0 if kind in ("CPU", "GPU") or "memory" in node else MUCH)


def at_most(resources: Resources, config: Mapping[str, Any]) -> list[Node]:
    """The nodes that an autoscaling cluster may have, from its configuration (Ray's cluster YAML, filled in by ``ray up``).

    Of several node types within ``max_workers``, those first that take most workers of a trial.
    """
    left, head = int(config.get("max_workers", 0)), config.get("head_node_type")
    nodes: list[Node] = []
    kinds: list[tuple[Node, int]] = []
    for name, kind in config.get("available_node_types", {}).items():
        listed = (kind.get("resources") or {}).items()
        # Ray starts a node for what its type lists, and for nothing else.
        node = {"memory": 0.0} | {k: float(v) for k, v in listed if k in ("CPU", "GPU", "memory") or ACCELERATOR in k}
        if name == head:
            nodes.append(node)
        else:
            kinds.append((node, int(kind.get("max_workers", left))))
    for offered, most in sorted(kinds, key=lambda kind: -_workers(resources, kind[0])):
        count = min(most, left)
        left -= count
        nodes += [offered] * count
    return nodes


def check_here(resources: Resources, nodes: Sequence[Node]) -> int:
    """The same as ``check``, for nodes on which Ray is still to be started, by us: they have no labels."""
    if resources.labels:
        asked = ", ".join(f"{name}={value}" for name, value in resources.labels.items())
        raise UserError(
            f"resources.labels ({asked}) are of the nodes of a Ray cluster that is up: name it with --address or --cluster, "
            "or leave them out"
        )
    return check(resources, nodes)


def check(resources: Resources, nodes: Sequence[Node]) -> int:
    """The same, at most ``max_concurrent``; raises ``UserError`` saying what is missing if not even one fits."""
    fit = at_once(resources, nodes)
    if fit:
        return min(fit, resources.max_concurrent or fit)
    if resources.labels and not nodes:
        asked = ", ".join(f"{name}={value}" for name, value in resources.labels.items())
        raise UserError(f"resources.labels: no node of the cluster has {asked}; `ray list nodes` shows what they have")
    largest = {kind: max((_has(node, kind) for node in nodes), default=0.0) for kind in resources.need()}
    lacking = [_lack(kind, of, largest[kind]) for kind, of in resources.need().items() if of > largest[kind]]
    if resources.workers > 1:
        who, of = "one worker of a trial", f"room for {resources.workers} workers ({describe(resources)} each)"
    else:
        who, of = "one trial", f"more at once than any one node has ({describe(resources)})"
    raise UserError(
        f"resources: {who if lacking else 'one trial'} needs {' and '.join(lacking) or of}; lower resources.workers, "
        "cpus_per_worker or gpus_per_worker, or what else is asked for there, or add nodes"
    )


def _lack(kind: str, wanted: float, largest: float) -> str:
    if kind == "memory":
        return f"{wanted / 2**30:g} GiB of memory (the largest node has {largest / 2**30:.3g})"
    if kind.startswith(ACCELERATOR):
        return f"GPUs of the type {kind.removeprefix(ACCELERATOR)} (no node has them)"
    return f"{wanted:g} {kind}s (the largest node has {largest:g})"


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
    if resources.gpus_per_worker:
        parts.append(f"{resources.gpus_per_worker:g} {resources.accelerator or 'GPU'}")
    if resources.memory_per_worker is not None:
        parts.append(f"{resources.memory_per_worker:g} GiB")
    return ", ".join([*parts, *(f"{name}={value}" for name, value in resources.labels.items())])
