"""Placement groups that nobody owns any more, and giving back what they hold.

Ray removes a placement group once both its job and the actor that made it are gone. When only the actor of a worker group is
(its trial's process died), it stays; and when a driver ends while one is being placed, it stays for ever, with the job. Ray
Train's own cleaner asks the dashboard, which may not be there or be another Ray's. So the driver looks for itself.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray

from ltsearch.cluster import ray_internals

LOOK_SECONDS = 10.0
LOOK_SECONDS_WATCHING = 3.0
WATCH_SECONDS = 600.0  # after a failure


def here() -> Any:
    """Where an actor without needs goes: on this node. Ray would put it on any, and a lost one would take it along."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Orphans:
    """Finds and removes them while a sweep of worker groups runs."""

    def __init__(self) -> None:
        """Looks at once: an earlier driver may have left some."""
        self._until = time.monotonic() + WATCH_SECONDS
        self._looked = 0.0

    def watch(self) -> None:
        """A trial has failed: look more often for a while."""
        self._until = time.monotonic() + WATCH_SECONDS

    def tidy(self) -> None:
        """Remove what is found; often called, seldom does anything, and never ends a sweep."""
        now = time.monotonic()
        if now - self._looked < (LOOK_SECONDS_WATCHING if now < self._until else LOOK_SECONDS):
            return
        self._looked = now
        with suppress(Exception):  # Ray raises many kinds while nodes come and go; it is tried again at the next look
            for group in orphans():
                with suppress(Exception):
                    ray_internals.remove_placement_group(group)


def orphans() -> list[str]:
    """Ids of placement groups whose maker, an actor, is dead, of this job or of one that has ended; detached ones are not."""
    ended = ray_internals.ended_jobs()
    ours = {ray.get_runtime_context().get_job_id(), *ended}
    found = []
    for group in ray_internals.placement_groups():
        if group.detached or group.job not in ours:
            continue
        by_driver = set(group.maker) <= {"f"}
        if group.job in ended if by_driver else ray_internals.actor_is_dead(group.maker):
            found.append(group.id)
    return found
