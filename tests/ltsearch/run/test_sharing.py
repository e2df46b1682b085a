"""Sweeps that share a cluster: whose places are whose."""

from __future__ import annotations

from dataclasses import dataclass
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
    cpu, two, huge = {"CPU": 1.0}, {"CPU": 2.0}, {"CPU": 99.0}
    groups = [
        PlacementGroup("1", "a", "f", False, (("n1", cpu), ("n2", cpu))),
        PlacementGroup("2", "a", "f", False, (("", two),)),
        PlacementGroup("3", "b", "f", False, (("n1", two), ("", cpu))),  # its node was lost, half of it is placed again
        PlacementGroup("4", "b", "f", False, (("", huge),)),  # never will be
    ]
    nodes = {"n1": {"CPU": 4.0}, "n2": {"CPU": 4.0}}
    jobs = by_job(groups, nodes.values())
    assert jobs == {
        "a": Share({"n1": {"CPU": 1.0}, "n2": {"CPU": 1.0}}, {"CPU": 2.0}),
        "b": Share({"n1": {"CPU": 2.0}}, {"CPU": 1.0}),
    }
    assert without(nodes, [jobs["a"]]) == [{"CPU": 3.0}, {"CPU": 3.0}]


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
        self.running: list[int] = []
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
        return len(self.running) * self.workers

    def begins(self) -> None:
        """If that is ours, and there is room."""
        free = self.places - sum(one.holds for one in self.all_of_them)
        if len(self.running) < self.capacity() and free >= self.workers:
            self.running.append(0)
        self.waits = self.demand.wanted()

    def look(self) -> tuple[Share, list[Share]]:
        def share(one: Sweep) -> Share:
            held, wanted = one.holds, one.waits * one.workers
            return Share({"here": {"CPU": float(held)}} if held else {}, {"CPU": float(wanted)} if wanted else {})

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
            del one.running[:1]  # a trial ends
            one.begins()
            for other in sweeps:  # what has fallen free
                other.begins()
        kept.append(tuple(sorted((len(one.running) for one in sweeps), reverse=True)))
    assert kept[0] == (places // workers[0],)
    assert kept[-1] == kept[-2] == fair
    for one in sweeps[1:]:  # the others end
        one.running.clear()
        one.left = one.waits = 0
    for _ in range(places):
        sweeps[0].begins()
    assert len(sweeps[0].running) == places // workers[0]
