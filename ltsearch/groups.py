"""What worker groups hold, and giving it back when the trial's process that owned one is gone.

Ray removes a placement group when its job ends, not when the actor that made it dies; Ray Train's own cleaner asks the
dashboard, which may not be there or be another Ray's. So workers tell the registry which placement group they run in, and the
driver removes those of owners that died.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray

LOOK_SECONDS = 3.0
WATCH_SECONDS = 600.0  # after a failure
START_SECONDS = 180.0  # a group whose workers have not told of it by then has lost its owner while it was starting
ANSWER_SECONDS = 10.0


class Registry:
    """An actor: the placement groups of this sweep's worker groups, by their owners."""

    def __init__(self) -> None:
        """Empty."""
        self.owners: dict[str, Any] = {}
        self.groups: dict[str, str] = {}

    def begin(self, owner: str, handle: Any) -> None:
        """A trial's actor starts a group."""
        self.owners[owner] = handle

    def add(self, owner: str, group: str) -> None:
        """A worker of it runs in this placement group (its id)."""
        self.groups[group] = owner

    def all(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Owners' handles, and owners by group."""
        return self.owners, self.groups


def here() -> Any:
    """Where an actor without needs goes: on this node. Ray would put it on any, and a lost one would take it along."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


class Orphans:
    """The driver's side: finds and removes what nobody owns any more."""

    def __init__(self, bundles: Mapping[int, Mapping[str, float]]) -> None:
        """``bundles``: what the placement group of a trial of this sweep is made of."""
        self.bundles = {i: dict(bundle) for i, bundle in bundles.items()}
        self.registry = ray.remote(num_cpus=0)(Registry).options(scheduling_strategy=here()).remote()
        self._job = str(ray.get_runtime_context().get_job_id())
        self._until = self._looked = 0.0
        self._seen: dict[str, float] = {}
        self._asked: dict[str, Any] = {}  # owners that have not answered yet, with their answer to come
        self._dead: set[str] = set()

    def watch(self) -> None:
        """A trial has failed: look for what it has left, for a while."""
        self._until = time.monotonic() + WATCH_SECONDS

    def tidy(self) -> None:
        """Remove what is found; often called, seldom does anything, never waits, and fails without a word."""
        now = time.monotonic()
        if now > self._until or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        try:
            self._tidy(now)
        except Exception:  # Ray raises many kinds while nodes come and go; it is tried again at the next look
            pass

    def _tidy(self, now: float) -> None:
        there = self._placement_groups()
        owners, groups = ray.get(self.registry.all.remote(), timeout=ANSWER_SECONDS)
        for owner, handle in owners.items():
            self._ask(owner, handle)
        # One that died before its workers could tell of their group.
        unheard = self._dead - set(groups.values())
        for group in there:
            since = self._seen.setdefault(group, now)
            lost = group not in groups and bool(unheard) and now - since > START_SECONDS
            if groups.get(group) in self._dead or lost:
                _remove(group)

    def _ask(self, owner: str, handle: Any) -> None:
        """Has the actor died? One that is busy answers later: nobody waits for it."""
        if owner in self._dead:
            return
        answer = self._asked.get(owner)
        if answer is None:
            self._asked[owner] = handle.__ray_ready__.remote()
            return
        ready, _ = ray.wait([answer], timeout=0)
        if ready:
            del self._asked[owner]
            try:
                ray.get(answer)
            except ray.exceptions.ActorUnavailableError:
                pass  # out of reach for the moment
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError):
                self._dead.add(owner)

    def _placement_groups(self) -> list[str]:
        """Ids of those of this job that are made as ours are and hold something."""
        from ray.util import placement_group_table

        return [
            group
            for group, entry in placement_group_table().items()
            # An id ends with the id of its job: other sweeps on the cluster have groups like ours.
            if group.endswith(self._job) and entry["state"] == "CREATED" and entry["bundles"] == self.bundles
        ]


def _remove(group: str) -> None:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
