"""A sweep on a cluster that starts nodes as they are asked for, by Ray's own autoscaler and its provider of pretended nodes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from ltsearch.run.nodes import KUBERAY
from ltsearch.store.cells import CellStore
from tests.cluster import hosts
from tests.cluster.hosts import Host, Hosts
from tests.ltsearch.helpers import study

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(hosts.missing() is not None, reason=hosts.missing() or ""),
]

MOST, TRIALS = 4, 16
PRETENDED = {
    "cluster_name": "pretended",
    "max_workers": MOST,
    "provider": {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
                 "disable_launch_config_check": True},
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 1, "object_store_memory": 80_000_000}, "node_config": {}, "min_workers": 0,
                "max_workers": MOST},
    },
    "head_node_type": "ray.head.default",
    "upscaling_speed": 100.0,
    "idle_timeout_minutes": 5.0,
    "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
    "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
    "worker_start_ray_commands": [], "head_node": {}, "worker_nodes": {},
}  # fmt: skip


# Pretended nodes share one session's folder, and every node that comes unpacks the code there anew: trials' processes that are
# just starting would find no folder below them. So what is there is left (it is the same); real nodes have their own folders.
NOT_TWICE = """
import sys

if any(word.endswith("runtime_env/agent/main.py") for word in sys.orig_argv):
    from ray._private.runtime_env import working_dir

    unpack = working_dir.download_and_unpack_package
    working_dir.download_and_unpack_package = lambda *words, **more: unpack(*words, **{**more, "overwrite": False})
"""


@pytest.fixture
def head() -> Iterator[Host]:
    """The head of a cluster without any node that trains."""
    with Hosts() as all_of_them:
        head = all_of_them.hosts[0]
        (all_of_them.shared / "work").mkdir()
        (all_of_them.shared / "pretended.json").write_text(json.dumps(PRETENDED))
        (all_of_them.shared / "patch").mkdir()
        (all_of_them.shared / "patch" / "sitecustomize.py").write_text(NOT_TWICE)
        start = (
            f"{sys.executable} -m ray.scripts.scripts start --head --port=6379 --num-cpus=0 --include-dashboard=false "
        )
        start += "--object-store-memory=80000000 --autoscaling-config=/mnt/pretended.json"
        env = {"RAY_enable_autoscaler_v2": "0", "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        env["PYTHONPATH"] = "/mnt/patch"
        done = head.run(start, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        yield head


def test_a_search_takes_nodes_as_they_come(head: Host) -> None:
    """From none to four: each proposal is made when there is a node for it, and no more nodes are asked for than allowed."""
    tree: dict[str, Any] = study(**{"base.synthetic.epoch_seconds": 1.0, "search.trials": TRIALS})
    del tree["ablation"]
    work = head.shared / "work"
    (work / "study.yaml").write_text(yaml.safe_dump(tree))
    command = f"{sys.executable} -m ltsearch.sweep study.yaml --address auto"
    done = head.run(f"{{ {command}; }} 2>&1", "/mnt/work", 900, {KUBERAY: "1"})
    assert done.returncode == 0 and "left alone" not in done.stdout, done.stdout
    folder = work / "store" / "sweeps" / "synthetic"
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    assert len(trials) == TRIALS and all(trial.state.is_finished() for trial in trials)
    spans = [(one.datetime_start, one.datetime_complete) for one in trials]
    at_once = [sum(start <= one < end for start, end in spans if start and end) for one, _ in spans if one]
    # One more than run is at hand, for the actor that becomes free first.
    assert 3 <= max(at_once) <= MOST + 1, at_once
    # The first waited for a node, and no other with it: the second was proposed once there was room, or a result.
    first, second = sorted(start.timestamp() for start, _ in spans if start)[:2]
    assert second - first > 1.0, spans
    store = CellStore(work / "store")
    records = [store.read(path.parent.name) for path in (work / "store" / "cells").glob("*/record.json")]
    assert len([one for one in records if one is not None and one.history]) >= TRIALS
