"""Two sweeps on one cluster at once: the second one need not wait for the end of the first, which takes back what is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ltsearch import exit_codes
from ltsearch.show.status import read
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from tests.ltsearch.helpers import environment, ray_cluster, study, write
from tests.ltsearch.run.test_workers import study as of_workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
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


def until(what: Callable[[], object], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@contextmanager
def cluster_of(places: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of one with so many CPUs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="lt-shared-") as folder:
        with ray_cluster(num_cpus=places, temp_dir=folder) as cluster:
            yield cluster.address


@contextmanager
def sweeps() -> Iterator[list[subprocess.Popen[str]]]:
    """Those that are put there are ended."""
    begun: list[subprocess.Popen[str]] = []
    try:
        yield begun
    finally:
        for sweep in begun:
            sweep.kill()
            sweep.wait()


def synthetic(epoch_seconds: float, epochs: int, seeds: int) -> dict[str, Any]:
    tree = study(**{"base.synthetic": {"epoch_seconds": epoch_seconds}, "base.training.epochs": epochs, "seeds": seeds})
    del tree["search"], tree["ablation"]["components"]["InterCL"]
    return tree


def test_a_second_sweep_gets_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four CPUs; its trials have two workers of a CPU each, and really train.

    The first one's trials take less time than an actor to start, which are started all the same once there is room again.
    """
    short = of_workers(2, resources={"workers": 2, "cpus_per_worker": 1})
    one, two = tmp_path / "first", tmp_path / "second"
    with cluster_of(PLACES, monkeypatch) as address, sweeps() as begun:
        begun.append(first := begin(one, synthetic(1.5, 2, 500), address))
        until(lambda: len(epochs(one, "synthetic")) == PLACES)
        begun.append(second := begin(two, short, address))
        seen: list[int] = []  # how many trials the first runs while the second trains

        def is_over() -> bool:
            if any(epochs(two, "workers")):  # written at once when its last trial ends, before its place is given back
                seen.append(len(epochs(one, "synthetic")))
            return second.poll() is not None

        until(is_over, 400.0)
        assert second.returncode == exit_codes.DONE, (two / "said").read_text()
        assert first.poll() is None and seen and max(seen) <= PLACES // 2, (seen, (one / "said").read_text())
        until(lambda: len(epochs(one, "synthetic")) > PLACES // 2)
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == exit_codes.INTERRUPTED
    said = (one / "said").read_text()
    assert said.count("the cluster is shared with other jobs") == 1 and "failed" not in said, said
    store = CellStore(two / "store")
    assert [store.read(cell).status for cell in store.cells()] == [Status.FINISHED] * 2


def test_two_sweeps_take_turns_on_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one ends in the middle of the first, which goes on between its trials and after them."""
    one, two = tmp_path / "first", tmp_path / "second"
    with cluster_of(1, monkeypatch) as address, sweeps() as begun:
        begun.append(first := begin(one, synthetic(0.5, 2, 500), address))
        until(lambda: epochs(one, "synthetic"))
        begun.append(second := begin(two, synthetic(0.5, 2, 1), address))
        until(lambda: second.poll() is not None, 400.0)
        assert second.returncode == exit_codes.DONE, (two / "said").read_text()
        first.send_signal(signal.SIGINT)
        assert first.wait(60) == exit_codes.INTERRUPTED
    ours, theirs = (CellStore(folder / "store") for folder in (one, two))
    ends = [
        [r.ended for cell in of.cells() if (r := of.read(cell)) and r.status == "finished"] for of in (ours, theirs)
    ]
    within = [end for end in ends[0] if min(ends[1]) < end < max(ends[1])]
    assert len(ends[1]) == 2 and len(within) >= 1, ends  # neither waits for the other's end
