"""A cluster that several jobs share: what the others hold of it and wait for, and how much of it is ours.

Ray gives a place to whoever asked first, and trials follow each other on theirs: the sweep that came first would keep all of
the cluster to its end. So each takes its max-min fair share (Bertsekas and Gallager, Data Networks, 6.5.2): what those who
want less leave is divided among the others. Nothing is announced, since all that holds places or waits for some are placement
groups, which Ray lists: sweeps need not know of each other, and other programs count as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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
    waits: dict[str, float] = field(default_factory=dict)  # by kind

    def held(self, kind: str, nodes: Iterable[str]) -> float:
        """Of one kind, on these nodes."""
        return sum(self.holds.get(node, {}).get(kind, 0.0) for node in nodes)


def look() -> tuple[Share, list[Share]]:
    """What this driver's job has, and what every other one."""
    there = [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    jobs = by_job(ray_internals.placement_groups(), there)
    return jobs.pop(ray.get_runtime_context().get_job_id(), Share()), list(jobs.values())


def by_job(groups: Iterable[PlacementGroup], nodes: Collection[Node]) -> dict[str, Share]:
    """Shares by job; what waits for more than any node has will never be placed, and does not count."""
    jobs: dict[str, Share] = {}
    for group in groups:
        waits = [wanted for node, wanted in group.bundles if not node]
        if all(any(_fits(wanted, node) for node in nodes) for wanted in waits):
            share = jobs.setdefault(group.job, Share())
            for wanted in waits:
                _add(share.waits, wanted)
            for where, wanted in group.bundles:
                if where:
                    _add(share.holds.setdefault(where, {}), wanted)
    return jobs


def _fits(wanted: Node, node: Node) -> bool:
    return all(node.get(kind, 0.0) >= of - EXACT for kind, of in wanted.items())


def _add(to: dict[str, float], what: Node) -> None:
    for kind, of in what.items():
        to[kind] = to.get(kind, 0.0) + of


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


def fair_places(
    places: int, whole: Mapping[str, float], nodes: Collection[str], ours: Share, others: Sequence[Share]
) -> int:
    """How many of a cluster's ``places`` for trials are ours; at least one.

    ``whole``: what the cluster has of the kinds that trials need; ``nodes``: on which of those that there are they may lie. A
    place that is left over stays with who has it, as long as nobody who waits has fewer than the others.
    """

    def part(share: Share, *, waiting: bool) -> float:
        has = {kind: share.held(kind, nodes) + waiting * share.waits.get(kind, 0.0) for kind in whole}
        return max((has[kind] / total for kind, total in whole.items()), default=0.0)

    exact = fair_fraction(part(other, waiting=True) for other in others) * places
    least = int(exact + EXACT)
    behind = any(other.waits and part(other, waiting=False) * places < least - EXACT for other in others)
    keeps = exact - least > EXACT and not behind and part(ours, waiting=False) * places > least + EXACT
    return max(1, least + keeps)
