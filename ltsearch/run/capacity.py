"""How many trials run at once: what the nodes have room for, and of a cluster that is shared, what of that is this sweep's."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from ltsearch.plan import placement
from ltsearch.plan.placement import Node
from ltsearch.run.sharing import EXACT, Share, fair_places, fair_share, waited_for, without
from ltsearch.study.spec import Resources

LOOK_SECONDS = 2.0
WAITED_SECONDS = 60.0
STILL_SECONDS = 300.0  # a cluster that could grow and has not for so long is divided as it is, while others wait


class Capacity:
    """As many as the nodes that there are can place (``growth`` asks for more of them)."""

    def __init__(
        self,
        resources: Resources,
        look: Callable[[], Mapping[str, Node]],
        config: Mapping[str, Any] | None = None,
        silent: Mapping[str, str] = MappingProxyType({}),
        sharing: Callable[[], tuple[Share, list[Share]]] | None = None,
    ) -> None:
        """``config``: of an autoscaling cluster; ``silent``: nodes that did not answer, by Ray's id, and why.

        ``sharing``: what this job and others have of the cluster (``sharing.look``); none: it is ours alone.
        Raises ``UserError`` if not even one trial can ever be placed.
        """
        self.resources, self.look, self.silent, self.sharing = resources, look, silent, sharing
        self.grows = config is not None
        self.more = placement.at_most(resources, config) if config else []
        self.there: Mapping[str, Node] = look()
        self.ours, self.others = sharing() if sharing is not None else (Share(), [])
        self._looked = self._grown = time.monotonic()
        self._fitting = time.monotonic()  # when a trial last fitted
        self._told_of_others = self._told_to_wait = False
        self.say: Callable[[str], None] = print
        self.limit = resources.max_concurrent
        self._changed: Callable[[Sequence[Node]], None] = lambda nodes: None
        if not self.fitting() and (self.more or not self.grows):
            placement.check(resources, self.more or self.nodes)

    @property
    def nodes(self) -> list[Node]:
        """As they were last looked at."""
        return list(self.there.values())

    def tell(self, changed: Callable[[Sequence[Node]], None]) -> None:
        """Call this with the nodes that there are, now and whenever they have changed."""
        self._changed = changed
        changed(self.nodes)

    def __call__(self) -> int:
        """Trials at once: at least one, which waits for a place if there is none now."""
        self._look()
        fit = self.fitting()
        if not fit:
            self._wait_for_nodes()
            return 1
        self._fitting = time.monotonic()
        return max(1, min(self.limit or fit, self.room(), self.share() if self.others_wait() else fit))

    def others_wait(self) -> bool:
        """Does another job wait for a place?"""
        return any(other.waits for other in self.others)

    def look_again(self) -> None:
        """At once: something has changed."""
        self._looked = -math.inf

    def _look(self) -> None:
        if time.monotonic() - self._looked <= LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        there = self.look()
        if there != self.there:
            self._grown = time.monotonic() if len(there) > len(self.there) else self._grown
            self.there = there
            self._changed(self.nodes)
        if self.sharing is not None:
            with suppress(Exception):  # Ray raises many kinds while nodes come and go; the next look is soon
                self.ours, self.others = self.sharing()
            self._tell_of_others()

    def _tell_of_others(self) -> None:
        share, most = self.share(), min(self.limit or sys.maxsize, self.fitting())
        if self.others_wait() and share < most and not self._told_of_others:
            self._told_of_others = True
            self.say(f"the cluster is shared with other jobs: {share} trials at once instead of {most}, as trials end")
        elif most and not self.room() and not self._told_to_wait:
            self._told_to_wait = True
            self.say("other jobs hold all of the cluster: the next place that is given back is waited for")

    def _wait_for_nodes(self) -> None:
        if time.monotonic() - self._fitting > WAITED_SECONDS:
            self._fitting = math.inf  # said once
            room = f"has room for a trial ({self.resources.workers} × {placement.describe(self.resources)})"
            self.say(
                f"no node {room} yet: the cluster has been asked for one (`ray status` on its head tells what it does)"
                if self.grows
                else f"no node that is left {room}: waiting for one to come back"
            )

    def fitting(self) -> int:
        """Trials that the nodes, as they were last looked at, have room for."""
        return placement.at_once(self.resources, self.nodes)

    def room(self) -> int:
        """Those for which others leave room at the moment, ours included."""
        return placement.at_once(self.resources, without(self.there, self.others)) if self.others else self.fitting()

    def share(self, *, at_most: bool = False) -> int:
        """Those that are ours once others have given back what is not theirs.

        Of the cluster as it is; of one that has grown lately, or ``at_most``, of all that it may become.
        """
        grows = self.grows and (at_most or self._may_grow())
        if grows and not self.more:
            return sys.maxsize  # nobody knows how far that is: all ask for nodes
        places = self.most() if grows else self.fitting()
        if not self.others or not places:
            return places
        nodes = self.more if grows and places > self.fitting() else self.nodes
        return fair_places(places, self._held(self.ours), self._of_others(places, nodes))

    def _may_grow(self) -> bool:
        return self.grows and time.monotonic() - self._grown < STILL_SECONDS

    def takes_turns(self) -> bool:
        """Are they more that want a place than there are places? Then who has one leaves it to the others after each trial.

        Not to those who need less than a place: they would share it, and never give it back as a whole.
        """
        places, need = self.fitting(), self.resources.need()
        as_much = any(
            all(one.get(k, 0.0) >= of - EXACT for k, of in need.items()) for o in self.others for one in o.waits
        )
        if not places or not as_much or self._may_grow():
            return False
        return fair_share(places, self._of_others(places, self.nodes)) < 1 - EXACT

    def _of_others(self, places: int, nodes: Sequence[Node]) -> list[tuple[float, float]]:
        """How many of the places for our trials each other job has, and waits for."""
        kinds = [kind for kind, of in self.resources.need().items() if of]
        return [(self._held(other), waited_for(other, nodes, kinds, places)) for other in self.others]

    def _held(self, share: Share) -> int:
        """Of the places for our trials, how many a job's own take."""
        return self.fitting() - placement.at_once(self.resources, without(self.there, [share]))

    def most(self) -> int:
        """Trials that a cluster has room for, at its largest if its bounds are known."""
        return max(placement.at_once(self.resources, self.more), self.fitting())

    def only_room_bounds(self) -> bool:
        """Would one trial more have to wait for a place, and for nothing else?"""
        return not self.others and (self.limit is None or self.limit >= self.fitting())
