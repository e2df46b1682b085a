"""Where trials may run: memory, GPUs of a type, labels of nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan import placement
from ltsearch.study.spec import Resources
from tests.ltsearch.helpers import sweep, write
from tests.ltsearch.test_faults import ablation, broken, cluster, local
from trainables.errors import UserError

__all__ = ["cluster"]
GIB = 2**30
NODES = [
    {"CPU": 8.0, "memory": 16.0 * GIB},
    {"CPU": 8.0, "GPU": 4.0, "memory": 64.0 * GIB, "accelerator_type:A100": 1.0},
    {"CPU": 8.0, "GPU": 8.0, "memory": 64.0 * GIB, "accelerator_type:T4": 1.0},
]


@pytest.mark.parametrize(
    ("asked", "fit"),
    [
        ({}, 24),
        ({"memory_per_worker": 8}, 2 + 8 + 8),
        ({"gpus_per_worker": 1}, 12),
        ({"gpus_per_worker": 1, "accelerator": "A100"}, 4),
        ({"gpus_per_worker": 1, "accelerator": "A100", "memory_per_worker": 32}, 2),
        ({"accelerator": "T4", "workers": 2}, 4),
    ],
)
def test_how_many_fit(asked: dict[str, Any], fit: int) -> None:
    assert placement.at_once(Resources(**asked), NODES) == fit


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"accelerator": "H100"}, r"one trial needs GPUs of the type H100 \(no node has them\)"),
        ({"memory_per_worker": 100}, r"one trial needs 100 GiB of memory \(the largest node has 64\)"),
        ({"gpus_per_worker": 8, "accelerator": "A100"}, r"more at once than any one node has \(1 CPU, 8 A100\)"),
    ],
)
def test_what_does_not_fit(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        placement.check(Resources(**asked), NODES)


def test_what_only_ray_knows_is_not_counted_before_it_runs() -> None:
    asked = Resources(memory_per_worker=100, accelerator="GeForce-RTX-5090", gpus_per_worker=1)
    assert placement.check_here(asked, [{"CPU": 4.0, "GPU": 2.0}]) == 2
    with pytest.raises(UserError, match=r"resources\.labels \(zone=b\) are of the nodes of a Ray cluster that is up"):
        placement.check_here(Resources(labels={"zone": "b"}), [{"CPU": 4.0}])
    with pytest.raises(UserError, match=r"resources\.labels: no node of the cluster has zone=b"):
        placement.check(Resources(labels={"zone": "b"}), [])


def test_a_cluster_that_grows_starts_nodes_for_what_their_type_lists() -> None:
    lists = {"CPU": 8, "GPU": 1, "memory": 8 * GIB, "accelerator_type:L4": 1}
    kinds = {"head": {"resources": {"CPU": 0}}, "gpu": {"resources": lists, "max_workers": 3}}
    config = {"max_workers": 3, "head_node_type": "head", "available_node_types": kinds}
    for asked, fit in (
        ({"accelerator": "L4", "memory_per_worker": 4}, 3),
        ({"accelerator": "A100"}, 0),
        ({"memory_per_worker": 9}, 0),
    ):
        resources = Resources(gpus_per_worker=1, **asked)
        assert placement.at_once(resources, placement.at_most(resources, config)) == fit
    lists.pop("memory")
    resources = Resources(gpus_per_worker=1, memory_per_worker=1)
    assert placement.at_once(resources, placement.at_most(resources, config)) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
def test_trials_run_where_they_are_asked_to(cluster: Any, tmp_path: Path, workers: int) -> None:  # noqa: F811
    """On a cluster whose other node can set up no trial: none is tried there."""
    cluster.add_node(num_cpus=4, object_store_memory=100 * 2**20, env_vars=broken(tmp_path / "hook"))
    here = {"labels": {"zone": "b"}, "resources": {"accelerator_type:T4": 1}, "memory": 4 * GIB}
    cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20, **here)
    asked = {
        "labels": {"zone": "b"},
        "accelerator": "T4",
        "memory_per_worker": 1,
        "max_failures": 0,
        "workers": workers,
    }
    tree = ablation(resources=asked, seeds=1)
    ran = sweep(tmp_path, str(write(tmp_path, tree)), "--address", cluster.address)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{2 // workers} at once" in ran.stdout and "left alone" not in ran.stdout, ran.stdout
    found = local(tmp_path)
    assert found and all(record.status == "finished" for record in found.values())
