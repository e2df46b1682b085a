"""Asking a cluster that grows for nodes, without committing trials to nodes that are not there.

What Ray's autoscaler starts nodes for is what cannot be placed. Trials that wait for a place would do, but each of them is a
proposal that the search made blindly; so groups of empty places wait instead. One that is placed is given back at once, and
they go with the driver: nobody is left paying for nodes. (Of a driver that is killed while one is being placed, Ray may keep
that one; the next sweep's ``placement_groups.Orphans`` removes it.)
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ltsearch.study.spec import Resources

if TYPE_CHECKING:
    from ltsearch.run.nodes import Capacity
    from ltsearch.run.queue import Queue

LOOK_SECONDS = 1.0


class Demand:
    """Of one sweep."""

    def __init__(self, resources: Resources, capacity: Capacity, queue: Queue) -> None:
        """Nothing is asked for before the first look."""
        self.resources, self.capacity, self.queue = resources, capacity, queue
        self.groups: list[Any] = []
        self._looked = 0.0

    def wanted(self) -> int:
        """Trials that could run besides those that there is room for: at most as many again, as far as the cluster may grow.

        0 while there is room: what is placed there would be in the way of a trial.
        """
        here, running = self.capacity.fitting(), len(self.queue.running)
        if running < max(here, 1):
            return 0
        most = self.queue.could_run()
        if self.capacity.limit is not None:
            most = min(most, self.capacity.limit)
        if self.capacity.more:
            most = min(most, self.capacity.most())
        # What waits for a place, as the first trial does, asks for it itself.
        return max(0, min(most - max(here, running), max(here, 1)))

    def look(self) -> None:
        """Often called, seldom does anything, and never ends a sweep."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        from ray.util import placement_group, placement_group_table

        self.capacity()
        with suppress(Exception):  # Ray raises many kinds while nodes come and go; it is tried again at the next look
            states = placement_group_table() if self.groups else {}
            self._give_back([one for one in self.groups if states.get(one.id.hex(), {}).get("state") != "PENDING"])
            wanted = self.wanted()
            self._give_back(self.groups[wanted:])
            bundle = {kind: of for kind, of in self.resources.need().items() if of}
            labels = [self.resources.labels] * self.resources.workers if self.resources.labels else None
            strategy = "SPREAD" if self.resources.placement == "spread" else "PACK"
            while len(self.groups) < wanted:
                bundles = [bundle] * self.resources.workers
                self.groups.append(placement_group(bundles, strategy, bundle_label_selector=labels))

    def _give_back(self, groups: list[Any]) -> None:
        from ray.util import remove_placement_group

        for group in list(groups):
            remove_placement_group(group)
            self.groups.remove(group)

    def close(self) -> None:
        """Nothing is asked for any more."""
        with suppress(Exception):  # the driver ends, and they with it
            self._give_back(self.groups)
