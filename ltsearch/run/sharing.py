"""A cluster that several jobs share: what the others hold of it and wait for, and how much of it is ours.

Ray gives a place to whoever asks when it is free, and trials follow each other on theirs: the sweep that came first would keep
all of the cluster to its end. So each takes its max-min fair share (Bertsekas and Gallager, Data Networks, 6.5.2): what those
who want less leave is divided among the others. Nothing is announced, since all that holds places or waits for some are
placement groups, which Ray lists: sweeps need not know of each other, and other programs count as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import ray

from ltsearch.cluster import ray_internals
from ltsearch.cluster.ray_internals import PlacementGroup
from ltsearch.plan.placement import Node

EXACT = 1e-9


@dataclass
class Share:
    """What one job has."""

    holds: dict[str, dict[str, float]] = field(default_factory=dict)  # by node and kind
    waits: list[Node] = field(default_factory=list)  # what each of the places that it waits for asks for


def look() -> tuple[Share, list[Share]]:
    """What this driver's job has, and what every other one."""
    jobs = by_job(ray_internals.placement_groups())
    return jobs.pop(ray.get_runtime_context().get_job_id(), Share()), list(jobs.values())


def by_job(groups: Iterable[PlacementGroup]) -> dict[str, Share]:
    """Shares by job."""
    jobs: dict[str, Share] = {}
    for group in groups:
        share = jobs.setdefault(group.job, Share())
        for node, wanted in group.bundles:
            if node:
                held = share.holds.setdefault(node, {})
                for kind, of in wanted.items():
                    held[kind] = held.get(kind, 0.0) + of
            else:
                share.waits.append(wanted)
    return jobs


def _fits(wanted: Node, node: Node) -> bool:
    return all(node.get(kind, 0.0) >= of - EXACT for kind, of in wanted.items())


def without(nodes: Mapping[str, Node], others: Iterable[Share]) -> list[Node]:
    """Nodes, less what others hold of them."""
    held = [other.holds for other in others]
    return [
        {kind: of - sum(one.get(node, {}).get(kind, 0.0) for one in held) for kind, of in there.items()}
        for node, there in nodes.items()
    ]


def fair_fraction(demands: Iterable[float]) -> float:
    """The max-min fair part of a whole for one who wants all of it, beside others who want these parts."""
    wanting = sorted(demands)
    left, sharing = 1.0, len(wanting) + 1
    for demand in wanting:
        if demand * sharing >= left:
            break
        left, sharing = left - demand, sharing - 1
    return left / sharing


def waited_for(share: Share, nodes: Sequence[Node], kinds: Iterable[str], places: int) -> float:
    """How many of the ``places`` that ``nodes`` have for our trials a job waits for.

    What fits on none of them is waited for elsewhere, or for ever. ``kinds``: of what our trials need.
    """
    waits = [wanted for wanted in share.waits if any(_fits(wanted, node) for node in nodes)]
    parts = [0.0]
    for kind in kinds:
        if whole := sum(node.get(kind, 0.0) for node in nodes):
            parts.append(sum(wanted.get(kind, 0.0) for wanted in waits) / whole)
    return max(parts) * places


def fair_share(places: int, others: Iterable[tuple[float, float]]) -> float:
    """How many of so many places are ours, beside others who have and wait for so many; a part of one where they are many."""
    return fair_fraction((has + waits) / places for has, waits in others) * places


def fair_places(places: int, ours: float, others: Sequence[tuple[float, float]]) -> int:
    """The same in whole places, of which we have ``ours``; at least one.

    A place that is left over stays with who has it, as long as nobody who waits has fewer than the others.
    """
    exact = fair_share(places, others)
    least = int(exact + EXACT)
    behind = any(waits > 0 and has < least - EXACT for has, waits in others)
    return max(1, least + (exact - least > EXACT and not behind and ours > least + EXACT))
