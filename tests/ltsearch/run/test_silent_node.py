"""A node that Ray takes for alive and that does not answer, on Ray's own cluster utilities."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltsearch.run import nodes
from ltsearch.store.cells import CellStore
from tests.ltsearch.helpers import OBJECTS, ROOT, ray_cluster


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head and a node."""
    import ray

    with ray_cluster(num_cpus=1) as made:
        made.add_node(num_cpus=1, object_store_memory=OBJECTS)
        ray.init(address=made.address, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}}, logging_level="ERROR")
        yield made
        ray.shutdown()


@pytest.mark.slow
def test_a_silent_node_is_left_alone(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "OTHERS_SECONDS", 5.0)
    monkeypatch.setattr(nodes, "ANSWER_SECONDS", 60.0)
    store = CellStore(tmp_path / "store")
    assert nodes.check(store) == {}
    (node,) = cluster.worker_nodes
    raylet = node.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    try:
        ((silent, why),) = nodes.check(store).items()
    finally:
        os.kill(raylet, signal.SIGCONT)
    assert silent == node.node_id and why.startswith("node ") and why.endswith(" does not answer")
