"""Sweeps that share a cluster: whose places are whose."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ltsearch.cluster.ray_internals import PlacementGroup
from ltsearch.run import capacity as capacities
from ltsearch.run.capacity import Capacity
from ltsearch.run.growth import Demand
from ltsearch.run.sharing import Share, by_job, fair_fraction, without
from ltsearch.study.spec import Resources


@given(st.lists(st.integers(0, 1000), max_size=6))
def test_the_fair_fraction_is_that_of_progressive_filling(thousandths: list[int]) -> None:
    """All get a little more, again and again; who has what it wants gets no more."""
    got, wanted = [0] * (len(thousandths) + 1), [*thousandths, 10**9]
    left = 10_000
    while left > 0:
        for one, (has, wants) in enumerate(zip(got, wanted, strict=True)):
            if has < 10 * wants and left > 0:
                got[one] += 1
                left -= 1
    assert fair_fraction(one / 1000 for one in thousandths) == pytest.approx(got[-1] / 10_000, abs=2e-4)


def test_what_jobs_hold_and_wait_for() -> None:
    cpu, two = {"CPU": 1.0}, {"CPU": 2.0}
    groups = [
        PlacementGroup("1", "a", "f", False, (("n1", cpu), ("n2", cpu))),
        PlacementGroup("2", "a", "f", False, (("", two),)),
        PlacementGroup("3", "b", "f", False, (("n1", two), ("", cpu))),  # its node was lost, half of it is placed again
    ]
    jobs = by_job(groups)
    assert jobs == {
        "a": Share({"n1": {"CPU": 1.0}, "n2": {"CPU": 1.0}}, [two]),
        "b": Share({"n1": {"CPU": 2.0}}, [cpu]),
    }
    nodes = {"n1": {"CPU": 4.0}, "n2": {"CPU": 4.0}}
    assert without(nodes, [jobs["a"]]) == [{"CPU": 3.0}, {"CPU": 3.0}]


EIGHT = {f"n{number}": {"CPU": 8.0, "GPU": 1.0, "memory": 8.0 * 2**30} for number in range(8)}
A100, H100 = "accelerator_type:A100", "accelerator_type:H100"
TYPES = {"a": {"CPU": 64.0, "GPU": 4.0, A100: 1.0}, "h": {"CPU": 64.0, "GPU": 4.0, H100: 1.0}}


def held(nodes: dict[str, dict[str, float]], **each: float) -> dict[str, dict[str, float]]:
    return {node: dict(each) for node in nodes}


@pytest.mark.parametrize(
    ("resources", "nodes", "other", "places"),
    [
        # CPUs are what a search without GPUs waits for: it has nearly all of them, and one place of ours is in its way.
        ({"gpus_per_worker": 1}, EIGHT, Share(held(EIGHT, CPU=7.0), [{"CPU": 1.0}] * 8), 7),
        ({"gpus_per_worker": 1}, EIGHT, Share(held(EIGHT, CPU=7.0), []), 8),
        # GPUs of another type are no business of ours.
        (
            {"gpus_per_worker": 1, "accelerator": "A100"},
            TYPES,
            Share(held({"h": {}}, GPU=4.0), [{"GPU": 1.0, H100: 0.001}]),
            4,
        ),
        # A helper beside, of which nothing is in the way.
        ({"cpus_per_worker": 7, "gpus_per_worker": 1}, EIGHT, Share({"n0": {"CPU": 1.0}}, []), 8),
        # Where memory is scarce, or a node's rest is of no use to anybody, places count and not CPUs.
        ({"memory_per_worker": 8}, EIGHT, Share({}, [{"CPU": 1.0, "memory": 8.0 * 2**30}] * 8), 4),
        ({"cpus_per_worker": 5}, EIGHT, Share({f"n{i}": {"CPU": 5.0} for i in range(3)}, [{"CPU": 5.0}] * 5), 4),
        # What no node has is waited for by nobody in earnest.
        ({}, {"n": {"CPU": 8.0}}, Share({}, [{"CPU": 99.0}] * 8), 8),
    ],
)
def test_shares_of_what_is_not_alike(
    resources: dict[str, Any], nodes: dict[str, dict[str, float]], other: Share, places: int
) -> None:
    capacity = Capacity(Resources(**resources), lambda: nodes, sharing=lambda: (Share(), [other]))
    assert capacity.share() == places
    assert capacity() == min(places if other.waits else capacity.room(), capacity.room())


def test_a_cluster_that_does_not_grow_is_divided_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Share({}, [{"CPU": 1.0}] * 8)
    kinds = {"head": {"resources": {"CPU": 0}}, "n": {"resources": {"CPU": 8}}}
    more = {"max_workers": 9, "head_node_type": "head", "available_node_types": kinds}
    for config, at_first in ((more, 64), ({}, sys.maxsize)):
        capacity = Capacity(Resources(), lambda: {"n": {"CPU": 8.0}}, config, sharing=lambda: (Share(), [other]))
        assert capacity.share() == at_first and capacity() == 8
        monkeypatch.setattr(capacities, "STILL_SECONDS", -1.0)
        assert capacity.share() == capacity() == 4
        assert capacity.share(at_most=True) == at_first
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("ours", "waits", "turns"),
    [
        (4, {"CPU": 4.0}, True),
        (4, {"CPU": 1.0}, False),  # it would take a part, and the next one another, and never give back the whole
        (2, {"CPU": 4.0}, False),  # there are two places: one is ours
        (4, {"GPU": 1.0}, False),  # there is none
    ],
)
def test_who_takes_turns(monkeypatch: pytest.MonkeyPatch, ours: int, waits: dict[str, float], turns: bool) -> None:
    resources, others = Resources(cpus_per_worker=ours), [Share({}, [waits])]
    config = {"max_workers": 0, "head_node_type": "h", "available_node_types": {"h": {"resources": {"CPU": 4}}}}
    for grows in (None, config):
        capacity = Capacity(resources, lambda: {"n": {"CPU": 4.0}}, grows, sharing=lambda: (Share(), others))
        assert capacity.takes_turns() == (turns and not grows)
    monkeypatch.setattr(capacities, "STILL_SECONDS", -1.0)
    assert capacity.takes_turns() == turns


def test_more_nodes_than_the_file_knows_of() -> None:
    """It lists no memory, which is what bounds trials here."""
    config = {"max_workers": 1, "head_node_type": "head", "available_node_types": {"head": {"resources": {"CPU": 8}}}}
    capacity = Capacity(Resources(memory_per_worker=2), lambda: {"n": {"CPU": 8.0, "memory": 8.0 * 2**30}}, config)
    assert capacity() == capacity.most() == 4


@pytest.mark.parametrize(
    ("running", "capacity", "could_run", "asked", "kept"),
    [
        (2, 4, 9, 2, 2),  # two are to come
        (2, 4, 3, 2, 1),  # no more than there is to do
        (4, 4, 9, 3, 1),  # one has begun, and has not asked yet
        (4, 4, 9, 4, 0),
        (5, 3, 9, 5, 0),  # fewer than before are ours
    ],
)
def test_places_are_kept_for_trials_that_have_not_asked(
    running: int, capacity: int, could_run: int, asked: int, kept: int
) -> None:
    resources = Resources(workers=2, cpus_per_worker=1)
    queue: Any = SimpleNamespace(running=range(running), could_run=lambda: could_run)
    demand = Demand(resources, Capacity(resources, lambda: {"n": {"CPU": 64.0}}), queue)
    trials = Share({"n": {"CPU": 2.0 * (asked - 1), "memory": 5.0}}, [{"CPU": 1.0}] * 2)  # the last waits
    assert demand.kept(capacity, trials) == kept


# -- several sweeps, round by round --------------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """One of them, on a cluster of one node: it holds places, waits for some, and has so much left to do."""

    name: str
    places: int
    workers: int
    left: int
    limit: int | None
    all_of_them: list[Sweep]
    waits: int = 0

    def __post_init__(self) -> None:
        self.running: list[int] = []  # trials that were handed out
        self.placed = 0  # of them
        resources = Resources(workers=self.workers, cpus_per_worker=1, max_concurrent=self.limit)
        node = {"here": {"CPU": float(self.places)}}
        self.capacity = Capacity(resources, lambda: node, sharing=self.look)
        self.capacity.say = lambda text: None
        queue: Any = self
        self.demand = Demand(resources, self.capacity, queue)

    def could_run(self) -> int:
        return len(self.running) + self.left

    @property
    def holds(self) -> int:
        return self.placed * self.workers

    def begins(self) -> None:
        """A trial, if that is ours; it waits if there is no room."""
        if len(self.running) < self.capacity():
            self.running.append(0)
        free = self.places - sum(one.holds for one in self.all_of_them)
        if len(self.running) > self.placed and free >= self.workers:
            self.placed += 1
        self.waits = self.demand.wanted() + len(self.running) - self.placed

    def ends(self) -> None:
        """A trial that had a place."""
        if self.placed:
            self.placed -= 1
            self.running.pop()

    def look(self) -> tuple[Share, list[Share]]:
        def share(one: Sweep) -> Share:
            held, wanted = one.holds, one.waits * one.workers
            return Share({"here": {"CPU": float(held)}} if held else {}, [{"CPU": 1.0}] * wanted)

        return share(self), [share(one) for one in self.all_of_them if one is not self]


@pytest.mark.parametrize(
    ("places", "workers", "limits", "fair"),
    [
        (8, (1, 1), (None, None), (4, 4)),
        (8, (1, 1), (None, 2), (6, 2)),
        (8, (1, 2), (None, None), (4, 2)),
        (8, (1, 1, 1), (None, None, None), (3, 3, 2)),
        (5, (1, 1), (None, None), (3, 2)),
        (4, (2, 2), (None, None), (1, 1)),
        (3, (1, 1, 1, 1), (None,) * 4, (1, 1, 1, 0)),  # more sweeps than places: the last waits for one to end
    ],
)
def test_each_comes_to_its_share_and_nothing_moves_then(
    monkeypatch: pytest.MonkeyPatch,
    places: int,
    workers: tuple[int, ...],
    limits: tuple[int | None, ...],
    fair: tuple[int, ...],
) -> None:
    """They come one after another; places are given back at the ends of trials only, and taken by whoever waits first."""
    monkeypatch.setattr(capacities, "LOOK_SECONDS", -1.0)
    sweeps: list[Sweep] = []
    kept = []
    for nth in range(len(workers) + 2):
        if nth < len(workers):
            sweeps.append(Sweep("abcd"[nth], places, workers[nth], 10_000, limits[nth], sweeps))
        for turn in range(40 * len(sweeps)):
            one = sweeps[turn % len(sweeps)]
            one.ends()
            one.begins()
            for other in sweeps:  # what has fallen free
                other.begins()
        kept.append(tuple(sorted((one.placed for one in sweeps), reverse=True)))
    assert kept[0] == (places // workers[0],)
    assert kept[-1] == kept[-2] == fair
    for one in sweeps[1:]:  # the others end
        one.running.clear()
        one.left = one.waits = one.placed = 0
    for _ in range(places):
        sweeps[0].begins()
    assert sweeps[0].placed == places // workers[0]
