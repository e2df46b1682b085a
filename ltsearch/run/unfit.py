"""Nodes on which a trial cannot be set up (a library that is missing, a storage that is not mounted): left alone for a while.

What such a node did is not the trial's failure: it is tried elsewhere, and not counted. The while grows with every time.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from socket import create_connection, gethostname
from types import MappingProxyType

from trainables.errors import UserError

FIRST_SECONDS, MOST_SECONDS = 60.0, 3600.0
ANSWER_SECONDS = 2.0
NODE_LABEL = "ray.io/node-id"  # Ray gives it to every node
_MARK = re.compile(r" \[node ([0-9a-f]+)\]")
LOST, GONE = "its node was lost", "the node that it waited for was lost"
NO_PLACE = "no worker of the group has started"
_LOST = re.compile(rf"node has died|node was (terminated|drained|preempted)|{LOST}|{GONE}")


@contextmanager
def blaming_the_node() -> Iterator[None]:
    """What fails in here is the node's fault; raises ``RuntimeError`` that says so, and which node it is."""
    try:
        yield
    except Exception as error:
        import ray

        first = next(iter(str(error).strip().splitlines()), "")
        why = first if isinstance(error, RuntimeError) else f"{type(error).__name__}: {first}"
        name, node = gethostname(), ray.get_runtime_context().get_node_id()
        where = "" if name in why else f"node {name}: "
        raise RuntimeError(f"{where}{why[:400]} [node {node}]") from None


def blamed(why: str) -> tuple[str | None, str]:
    """Of a trial's failure: the node whose fault it was, if it was one's; and the failure without the mark."""
    found = _MARK.search(why)
    return (found[1] if found else None), _MARK.sub("", why).removeprefix("RuntimeError: ") if found else why


def lost(why: str) -> bool:
    """Was it a node that went, whatever ran on it?"""
    return bool(_LOST.search(why))


def answers(node: str) -> bool:
    """Is a node still there? Ray itself takes up to a minute to notice that one has gone, longer than a retry."""
    import ray

    place = next((one for one in ray.nodes() if one["NodeID"] == node and one["Alive"]), None)
    if place is None:
        return False
    try:
        create_connection((place["NodeManagerAddress"], place["NodeManagerPort"]), timeout=ANSWER_SECONDS).close()
    except OSError as error:  # others are this process's own, such as too many open files
        gone = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)
        return not isinstance(error, ConnectionError | TimeoutError) and error.errno not in gone
    return True


def cannot_start(why: str, *, node: str = "", address: str = "") -> str:
    """Of a trial's process that ended before a cell was begun: as ``blaming_the_node`` would have said it on that node.

    Where there is no other node to tell whether it is this one's fault, it is as it was.
    """
    import ray

    nodes = {one["NodeID"]: one["NodeManagerAddress"] for one in ray.nodes() if one["Alive"]}
    there = [one for one in nodes if node == one or address == nodes[one]]
    if len(there) != 1 or len(nodes) == 1:
        return why
    return f"node {nodes[there[0]]}: a trial's process cannot start there ({why[:400]}) [node {there[0]}]"


def selector(avoid: Collection[str]) -> dict[str, str]:
    """For Ray: any node but these."""
    return {NODE_LABEL: f"!in({','.join(sorted(avoid))})"} if avoid else {}


class Unfit:
    """Which nodes are left alone now."""

    def __init__(
        self, alive: Callable[[], Collection[str]], say: Callable[[str], None], *, growing: bool = False
    ) -> None:
        """``alive``: ids of the nodes that there are, and that have room for a trial; ``growing``: others may come."""
        self.alive, self.say, self.growing = alive, say, growing
        self._until: dict[str, float] = {}
        self._times: dict[str, int] = {}
        self._why: dict[str, str] = {}

    def failed(self, node: str, why: str, *, at_work: bool) -> None:
        """A trial could not be set up there.

        Raises ``UserError`` if no node is left that could: none but those that failed, and no trial ``at_work``.
        """
        if node not in self.now():  # and not for every trial that had been sent there already
            times = self._times[node] = self._times.get(node, 0) + 1
            self._until[node] = time.monotonic() + min(FIRST_SECONDS * 2 ** (times - 1), MOST_SECONDS)
        if node not in self._why:
            self.say(f"{why}; the node is left alone for a growing while, and what it was to do is done elsewhere")
        self._why[node] = why
        if not at_work and not self.growing and self.everywhere():
            told = "; ".join(dict.fromkeys(self._why.values()))
            raise UserError(
                f"no node is left on which a trial can be set up: {told}; mend that, and the same command goes on"
            )

    def now(self) -> tuple[str, ...]:
        """Ids of the nodes to avoid."""
        now = time.monotonic()
        return tuple(sorted(node for node, until in self._until.items() if until > now))

    def everywhere(self) -> bool:
        """Is there no other node at the moment? Asked in every round: the cluster is only if some node is to be avoided."""
        avoided = set(self.now())
        return bool(avoided) and bool(there := set(self.alive())) and there <= avoided


def placed(
    config: Mapping[str, object],
    wanted: Mapping[str, float],
    labels: Mapping[str, str] = MappingProxyType({}),
    never: Collection[str] = (),
) -> object:
    """What Tune asks Ray for: ``wanted``, on nodes with ``labels``, but not on those that a trial avoids, nor on ``never``."""
    from ray.tune import PlacementGroupFactory

    avoid = {*never, *filter(None, str(config.get("avoid", "")).split(","))}
    on = {**labels, **selector(avoid)}
    where = {"bundle_label_selector": [on]} if on else {}
    return PlacementGroupFactory([dict(wanted)], **where)
