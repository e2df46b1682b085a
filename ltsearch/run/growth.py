"""Asking a cluster for more room, without committing trials to places that are not there.

What Ray's autoscaler starts nodes for, and what other sweeps give places back for, is what cannot be placed. Trials that wait
for a place would do, but each of them is a proposal that the search made blindly; so groups of empty places wait instead. One
that is placed keeps its place until a trial asks for it, or else another sweep would think that nobody wants it. They go with
the driver: nobody is left paying for nodes. (Of a driver that is killed while one is being placed, Ray may keep that one; the
next sweep's ``placement_groups.Orphans`` removes it.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ltsearch.cluster import ray_internals
from ltsearch.run.sharing import Share, by_job
from ltsearch.run.unfit import selector
from ltsearch.study.spec import Resources

if TYPE_CHECKING:
    from ltsearch.run.capacity import Capacity
    from ltsearch.run.queue import Queue

LOOK_SECONDS = 1.0
# That a place is kept for a trial: one that takes longer to ask for it, or never does, waits like others.
KEPT_SECONDS = 60.0


class Demand:
    """Of one sweep."""

    def __init__(
        self, resources: Resources, capacity: Capacity, queue: Queue, avoid: Callable[[], Collection[str]] = tuple
    ) -> None:
        """Nothing is asked for before the first look. ``avoid``: ids of nodes that trials avoid now."""
        self.resources, self.capacity, self.queue, self.avoid = resources, capacity, queue, avoid
        self.groups: list[Any] = []
        self._since: dict[Any, float] = {}  # when a group was first seen placed
        self._looked = 0.0

    def wanted(self) -> int:
        """Trials that could run besides those that there is room for: at most as many again, as far as our share goes.

        0 while there is room: what is placed there would be in the way of a trial.
        """
        room, running = self.capacity.room(), len(self.queue.running)
        if running < max(room, 1):
            return 0
        most = min(self.queue.could_run(), self.capacity.share(at_most=True))
        if self.capacity.limit is not None:
            most = min(most, self.capacity.limit)
        # What waits for a place, as the first trial does where there is none, asks for it itself. Nodes come by and by.
        return max(0, min(most - max(room, running), max(room, 1) if self.capacity.grows else most))

    def kept(self, capacity: int, ours: Share) -> int:
        """Places to keep for trials, where trials have ``ours``: for those that are to come, or have not asked for one yet."""
        to_come = min(max(len(self.queue.running), capacity), self.queue.could_run())
        kind, of = next((kind, of) for kind, of in self.resources.need().items() if of)
        asked = sum(one.get(kind, 0.0) for one in (*ours.holds.values(), *ours.waits)) / (of * self.resources.workers)
        return max(0, to_come - round(asked))

    def look(self) -> None:
        """Often called, seldom does anything, and never ends a sweep."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        import ray
        from ray.util import placement_group

        capacity = self.capacity()
        with suppress(Exception):  # Ray raises many kinds while nodes come and go; it is tried again at the next look
            placed = self._placed(ray.get_runtime_context().get_job_id(), capacity) if self.groups else []
            waiting = [one for one in self.groups if one not in placed]
            wanted = self.wanted()
            self._give_back(waiting[wanted:])
            bundle = {kind: of for kind, of in self.resources.need().items() if of}
            on = {**self.resources.labels, **selector(self.avoid())}
            labels = [on] * self.resources.workers if on else None
            strategy = "SPREAD" if self.resources.placement == "spread" else "PACK"
            for _ in range(wanted - len(waiting)):
                bundles = [bundle] * self.resources.workers
                self.groups.append(placement_group(bundles, strategy, bundle_label_selector=labels))

    def _placed(self, job: str, capacity: int) -> list[Any]:
        """Groups of empty places that are placed, and are kept."""
        of_job = [group for group in ray_internals.placement_groups() if group.job == job]
        empty = {one.id.hex(): one for one in self.groups}
        placed = [empty[one.id] for one in of_job if one.id in empty and all(node for node, _ in one.bundles)]
        if any(one not in self._since for one in placed):
            self.capacity.look_again()
        now = time.monotonic()
        self._since = {one: self._since.get(one, now) for one in placed}
        placed = [one for one in placed if now - self._since[one] < KEPT_SECONDS]
        trials = by_job(one for one in of_job if one.id not in empty)
        kept = placed[: self.kept(capacity, trials.get(job, Share()))]
        self._give_back([one for one in self._since if one not in kept])
        return kept

    def _give_back(self, groups: list[Any]) -> None:
        from ray.util import remove_placement_group

        for group in list(groups):
            remove_placement_group(group)
            self.groups.remove(group)

    def close(self) -> None:
        """Nothing is asked for any more."""
        with suppress(Exception):  # the driver ends, and they with it
            self._give_back(self.groups)
