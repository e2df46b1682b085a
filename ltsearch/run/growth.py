"""Asking a cluster that grows for nodes, without committing trials to nodes that are not there.

What Ray's autoscaler starts nodes for is what cannot be placed. Trials that wait for a place would do, but each of them is a
proposal that the search made blindly; so groups of empty places wait instead. One that is placed is given back at once, and
they go with the driver, however it ends: nobody is left paying for nodes.
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
        most = min(self.queue.could_run(), self.resources.max_concurrent or 2**31)
        if self.capacity.limit is not None:
            most = min(most, self.capacity.limit)
        if self.capacity.more:
            most = min(most, self.capacity.most())
        return max(0, min(most - here, max(here, 1)))

    def look(self) -> None:
        """Often called, seldom does anything, and never ends a sweep."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        from ray.util import placement_group

        with suppress(Exception):  # Ray raises many kinds while nodes come and go; it is tried again at the next look
            self._give_back(sum(_placed(group) for group in self.groups), _placed)
            wanted = self.wanted()
            self._give_back(len(self.groups) - wanted, lambda group: True)
            bundle = {"CPU": self.resources.cpus_per_worker, "GPU": self.resources.gpus_per_worker}
            strategy = "SPREAD" if self.resources.placement == "spread" else "PACK"
            while len(self.groups) < wanted:
                bundles = [{kind: of for kind, of in bundle.items() if of}] * self.resources.workers
                self.groups.append(placement_group(bundles, strategy))

    def _give_back(self, count: int, which: Any) -> None:
        from ray.util import remove_placement_group

        for group in [group for group in self.groups if which(group)][: max(count, 0)]:
            remove_placement_group(group)
            self.groups.remove(group)

    def close(self) -> None:
        """Nothing is asked for any more."""
        with suppress(Exception):  # the driver ends, and they with it
            self._give_back(len(self.groups), lambda group: True)


def _placed(group: Any) -> bool:
    return bool(group.wait(timeout_seconds=0.01))
