"""Two sweeps on one cluster at once: the second one need not wait for the end of the first, which takes back what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ltsearch import exit_codes
from ltsearch.show.status import read
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from tests.ltsearch.helpers import environment, study, write
from tests.ltsearch.run.test_workers import study as of_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PLACES = 4


def begin(folder: Path, tree: dict[str, Any], address: str) -> subprocess.Popen[str]:
    folder.mkdir()
    command = [sys.executable, "-m", "ltsearch.sweep", str(write(folder, tree)), "--address", address]
    with (folder / "said").open("w") as said:
        return subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=said, stderr=subprocess.STDOUT)


def epochs(folder: Path, name: str) -> list[int]:
    """That the trials of a sweep have come to, which run now."""
    status = read(CellStore(folder / "store").sweep_folder(name))
    return [trial.epoch for trial in status.running] if status is not None else []


def until(what: Callable[[], object], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_second_sweep_gets_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four CPUs; its trials have two workers of a CPU each, and really train."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = study(**{"base.synthetic": {"epoch_seconds": 1.5}, "base.training.epochs": 6, "seeds": 500})
    del long["search"], long["ablation"]["components"]["InterCL"]
    short = of_workers(2, resources={"workers": 2, "cpus_per_worker": 1})
    with tempfile.TemporaryDirectory(prefix="lt-shared-") as folder:
        options = {"include_dashboard": False, "temp_dir": folder, "object_store_memory": 80_000_000}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": PLACES, **options})
        first = second = None
        one, two = tmp_path / "first", tmp_path / "second"
        try:
            first = begin(one, long, cluster.address)
            until(lambda: len(epochs(one, "synthetic")) == PLACES)
            second = begin(two, short, cluster.address)
            seen: list[int] = []  # how many trials the first runs while the second trains

            def is_over() -> bool:
                if any(
                    epochs(two, "workers")
                ):  # written at once when its last trial ends, before its place is given back
                    seen.append(len(epochs(one, "synthetic")))
                return second.poll() is not None

            until(is_over, 300.0)
            assert second.returncode == exit_codes.DONE, (two / "said").read_text()
            assert first.poll() is None and seen and max(seen) <= PLACES // 2, (seen, (one / "said").read_text())
            until(lambda: len(epochs(one, "synthetic")) > PLACES // 2)
            first.send_signal(signal.SIGINT)
            assert first.wait(60) == exit_codes.INTERRUPTED
        finally:
            for sweep in (first, second):
                if sweep is not None:
                    sweep.kill()
                    sweep.wait()
            cluster.shutdown()
    said = (one / "said").read_text()
    assert said.count("the cluster is shared with other jobs") == 1 and "failed" not in said, said
    store = CellStore(two / "store")
    assert [store.read(cell).status for cell in store.cells()] == [Status.FINISHED] * 2
