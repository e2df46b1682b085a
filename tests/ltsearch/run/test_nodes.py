"""How many trials a cluster takes as it grows and shrinks, and what is said of nodes that do not fit in."""

from __future__ import annotations

import pickle
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ltsearch.plan import placement
from ltsearch.run import capacity as capacities
from ltsearch.run import nodes, placement_groups
from ltsearch.run.capacity import Capacity
from ltsearch.run.growth import Demand
from ltsearch.run.nodes import Terms
from ltsearch.study.spec import Resources
from trainables.errors import UserError

# What `ray up` leaves on the head of a cluster on AWS, in short.
AWS = {
    "cluster_name": "ltsearch",
    "provider": {"type": "aws"},
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4, "memory": 1}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 4}, "min_workers": 0, "max_workers": 2},
        "spare": {"resources": {"CPU": 8}, "max_workers": 5},
    },
}


MANY = {  # the first type takes all of `max_workers` and none of the trials
    "max_workers": 3,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4}},
        "small": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 3},
        "large": {"resources": {"CPU": 16}, "max_workers": 3},
    },
}


def test_the_nodes_that_a_cluster_may_have() -> None:
    four_gpus = Resources(cpus_per_worker=1, gpus_per_worker=4)
    assert [node.get("GPU") for node in placement.at_most(four_gpus, AWS)] == [None, 4.0, 4.0, None]
    assert [node.get("GPU") for node in placement.at_most(Resources(cpus_per_worker=8), MANY)] == [
        None,
        None,
        None,
        None,
    ]
    assert placement.at_most(Resources(gpus_per_worker=1), AWS) == [
        {"CPU": 4.0, "memory": 1.0},
        {"CPU": 8.0, "GPU": 4.0, "memory": 0.0},
        {"CPU": 8.0, "GPU": 4.0, "memory": 0.0},
        {"CPU": 8.0, "memory": 0.0},  # two workers and one more are the cluster's three
    ]


def test_which_clusters_grow(tmp_path: Path) -> None:
    path = tmp_path / "ray_bootstrap_config.yaml"
    assert nodes.growable(path) is None
    path.write_text(yaml.safe_dump(AWS))
    assert nodes.growable(path) == AWS
    path.write_text(yaml.safe_dump({**AWS, "provider": {"type": "local"}}))
    assert nodes.growable(path) is None


def test_the_bound_follows_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "LOOK_SECONDS", -1.0)
    there: dict[str, dict[str, float]] = {"a": {"CPU": 2.0}}
    told: list[Any] = []
    capacity = Capacity(Resources(workers=2, cpus_per_worker=1), lambda: dict(there))
    capacity.tell(lambda now: told.append(list(now)))
    assert capacity() == 1
    there["b"] = {"CPU": 5.0}
    assert capacity() == 3
    there.clear()
    assert capacity() == 1  # waits for a node to come back
    assert told == [[{"CPU": 2.0}], [{"CPU": 2.0}, {"CPU": 5.0}], []]
    bounded = Capacity(Resources(cpus_per_worker=1, max_concurrent=2), lambda: {"a": {"CPU": 8.0}})
    assert bounded() == 2


def test_that_nothing_fits_is_said_once_when_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacities, "LOOK_SECONDS", -1.0)
    there: dict[str, dict[str, float]] = {"a": {"CPU": 2.0}}
    said: list[str] = []
    capacity = Capacity(Resources(workers=2, cpus_per_worker=1), lambda: dict(there))
    capacity.say = said.append
    there.clear()
    assert capacity() == 1 and said == []  # nodes come back
    monkeypatch.setattr(capacities, "WAITED_SECONDS", -1.0)
    assert [capacity() for _ in range(3)] == [1, 1, 1]
    assert said == ["no node that is left has room for a trial (2 × 1 CPU): waiting for one to come back"]
    there["a"] = {"CPU": 2.0}
    assert capacity() == 1
    there.clear()
    assert capacity() == 1 and len(said) == 2  # it is another time


def test_a_cluster_that_may_grow() -> None:
    head = {"head": {"CPU": 4.0}}
    four = Resources(workers=4, cpus_per_worker=2, gpus_per_worker=1)
    with pytest.raises(UserError, match="1 GPUs .the largest node has 0."):
        Capacity(four, lambda: head)
    grows = Capacity(four, lambda: head, AWS)
    assert grows() == 1 and grows.fitting() == 0 and grows.most() == 2  # a trial that waits, not two
    somehow = Capacity(four, lambda: head, {})  # on Kubernetes, nobody says how far
    assert somehow() == 1 and somehow.grows
    with pytest.raises(UserError, match="room for 9 workers"):
        Capacity(Resources(workers=9, cpus_per_worker=2, gpus_per_worker=1), lambda: head, AWS)


@pytest.mark.parametrize(
    ("config", "here", "running", "left", "limit", "wanted"),
    [
        (AWS, 0, 1, 50, None, 1),  # the first trial asks for its node itself
        (AWS, 0, 1, 1, None, 0),
        (AWS, 2, 1, 50, None, 0),  # there is room
        (AWS, 2, 2, 50, None, 2),  # as many again
        (AWS, 6, 6, 50, None, 2),  # as far as it may grow: two nodes of four GPUs
        (AWS, 8, 8, 50, None, 0),
        ({}, 6, 6, 50, None, 6),
        ({}, 6, 6, 9, None, 3),  # no more than there is to do
        ({}, 6, 6, 50, 7, 1),  # `ltsearch change --max-concurrent`
    ],
)
def test_how_many_nodes_are_asked_for(
    config: dict[str, Any], here: int, running: int, left: int, limit: int | None, wanted: int
) -> None:
    resources = Resources(cpus_per_worker=1, gpus_per_worker=1)
    capacity = Capacity(resources, lambda: {"a": {"CPU": 64.0, "GPU": float(here)}}, config)
    capacity.limit = limit
    queue: Any = SimpleNamespace(running=dict.fromkeys(range(running)), could_run=lambda: left)
    assert Demand(resources, capacity, queue).wanted() == wanted


@pytest.mark.parametrize(("reports", "found"), [(True, {}), (False, None)])
def test_kuberay_grows_somehow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: bool, found: dict[str, Any] | None
) -> None:
    monkeypatch.setenv(nodes.KUBERAY, "1")
    monkeypatch.setattr(nodes.ray_internals, "autoscaler_reports", lambda: reports)
    monkeypatch.setattr(nodes, "REPORT_SECONDS", 0.0)
    assert nodes.growable(tmp_path / "none.yaml") == found


def test_mixed_versions() -> None:
    ours = {"code": "abc", "torch": "2.14.1", "ray": "2.60.0"}
    nodes.differ(ours, {"10.0.0.1": dict(ours)})
    with pytest.raises(UserError) as error:
        nodes.differ(
            ours, {"10.0.0.1": dict(ours), "10.0.0.2": {**ours, "torch": "2.13.0"}, "10.0.0.3": {"code": "abd"}}
        )
    said = str(error.value)
    assert "10.0.0.2 has torch 2.13.0" in said and "10.0.0.3 has code abd" in said and "10.0.0.3 has ray none" in said
    assert "runs with code abc, torch 2.14.1, ray 2.60.0" in said and "10.0.0.1" not in said


def test_the_terms_that_a_node_must_meet(tmp_path: Path) -> None:
    marker = tmp_path / "lock"
    here = re.escape(f"node {socket.gethostname()}")
    terms = pickle.loads(pickle.dumps(Terms(marker, nodes.versions())))  # it is sent there
    with pytest.raises(RuntimeError, match=f"^{here} does not see the storage of this sweep .{marker}.: is it mounted"):
        terms.meet()
    marker.touch()
    terms.meet()
    for name in ("torch", "code"):
        odd = f"the command runs with {name} 0, but {here} has {re.escape(f'{name} {nodes.versions()[name]}')}"
        with pytest.raises(RuntimeError, match=odd):
            Terms(marker, {**nodes.versions(), name: "0"}).meet()


def test_the_hunt_for_orphans_never_ends_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[list[str]] = [["b"], ["a"]]
    looks: list[int] = []
    removed: list[str] = []

    def look() -> list[str]:
        looks.append(1)
        if not found:
            raise ConnectionError("Ray is away")
        return found.pop(0)

    def remove(group: str) -> None:
        if group == "a":
            raise RuntimeError("it is gone already")
        removed.append(group)

    monkeypatch.setattr(placement_groups, "orphans", look)
    monkeypatch.setattr(placement_groups.ray_internals, "remove_placement_group", remove)
    hunt = placement_groups.Orphans()
    hunt.watch()
    hunt.tidy()
    hunt.tidy()  # too soon
    assert removed == ["b"] and len(looks) == 1
    monkeypatch.setattr(placement_groups, "LOOK_SECONDS_WATCHING", -1.0)
    hunt.tidy()  # what is found cannot be removed
    hunt.tidy()  # nothing can be asked
    assert removed == ["b"] and len(looks) == 3


def test_what_a_node_says_of_the_storage(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    assert nodes.look_around(str(probe), None)["blind"] == "does not see that folder"
    probe.touch()
    said = nodes.look_around(str(probe), None)
    assert said["blind"] == "" and said["versions"] == nodes.versions()
    assert [p.name for p in tmp_path.iterdir()] == ["probe"]
