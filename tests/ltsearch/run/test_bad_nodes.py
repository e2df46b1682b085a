"""Clusters that are not as they should be, pretended by Ray's utilities: another version, nodes that go bad in mid-sweep."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ltsearch import exit_codes
from ltsearch.store.cells import CellStore
from ltsearch.store.records import Status
from tests.ltsearch.helpers import OBJECTS, environment, ray_cluster, study, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
GOOD, SPOILT, KILLED = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A head on which nothing runs, and nodes by address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    options = {"num_cpus": 2, "memory": 4_000_000_000, "object_store_memory": OBJECTS}
    with (
        tempfile.TemporaryDirectory(prefix="lt-bad-") as folder,
        ray_cluster(num_cpus=0, temp_dir=f"{folder}/head") as made,
    ):
        nodes = {
            address: made.add_node(temp_dir=f"{folder}/{address[-1]}", node_ip_address=address, **options)
            for address in (GOOD, SPOILT, KILLED)
        }
        yield made, nodes


def spoil(node: Any) -> None:
    """The code that was sent there for trials' processes can no longer be imported."""
    unpacked = Path(node.get_session_dir_path()) / "runtime_resources" / "working_dir_files"
    found = list(unpacked.glob("_ray_pkg_*/ltsearch/run/trial.py"))
    assert found
    for module in found:
        module.write_text("import nothing_of_the_kind\n")


def test_another_version_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, with both."""
    import ray

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    path = str(write(tmp_path, study()))
    other = "import sys, ray; ray.__version__ = '2.55.1'; from ltsearch.sweep import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="lt-bad-") as folder, ray_cluster(temp_dir=folder) as made:
        command = [sys.executable, "-c", other, path, "--address", made.address]
        ran = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert ran.returncode == exit_codes.WRONG_INPUT and "Traceback" not in ran.stderr
    python = ".".join(map(str, sys.version_info[:3]))
    told = f"the cluster runs Ray {ray.__version__} on Python {python}, this command Ray 2.55.1 on Python {python};"
    assert ran.stderr.startswith("error: --address ") and told in ran.stderr and ran.stderr.count("\n") == 1
    assert not list((tmp_path / "store").glob("cells/*"))


def test_what_a_bad_node_did_is_no_trials_failure(cluster: tuple[Any, dict[str, Any]], tmp_path: Path) -> None:
    """On one the code goes bad, one is lost: no trial is charged with it, and the third does their work."""
    made, nodes = cluster
    over = {"trials": 6, "early_stopping": None, "confirm": None}
    tree = study(
        **{"base.synthetic": {"epoch_seconds": 2.0}, **{f"search.{key}": value for key, value in over.items()}}
    )
    del tree["ablation"]
    command = [sys.executable, "-m", "ltsearch.sweep", str(write(tmp_path, tree)), "--address", made.address]
    sweep = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, killed = "", False
    try:
        assert sweep.stdout is not None
        for line in sweep.stdout:
            said += line
            if "cells to run" in line:  # every node has been asked already
                spoil(nodes[SPOILT])
            if said.count("] start") == 4 and not killed:  # on the two that are left
                killed = True
                made.remove_node(nodes[KILLED], allow_graceful=False)
        assert sweep.wait(60) == exit_codes.DONE, said
    finally:
        sweep.kill()
        sweep.wait()
    assert said.count("the node is left alone for a growing while") == 1, said
    why = f"node {SPOILT}: a trial's process cannot start there (ModuleNotFoundError: No module named 'nothing_of_the_kind')"
    assert f"(attempt 1: {why})" in said and "(attempt 1: its node was lost)" in said and "(attempt 2" not in said, said
    store = CellStore(tmp_path / "store")
    assert [store.read(cell).status for cell in store.cells()] == [Status.FINISHED] * 6


def test_the_last_good_node_goes_while_a_trial_waits_for_it(
    cluster: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    """It would wait for ever, as it is kept from the one that is left: it tries that one, and the sweep tells of both."""
    made, nodes = cluster
    made.remove_node(nodes[KILLED])
    tree = study(**{"base.synthetic": {"epoch_seconds": 1.0}, "seeds": 2})
    del tree["search"]
    command = [sys.executable, "-m", "ltsearch.sweep", str(write(tmp_path, tree)), "--address", made.address]
    sweep = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, alarm = "", threading.Timer(400, sweep.kill)
    alarm.start()
    try:
        assert sweep.stdout is not None
        for line in sweep.stdout:
            said += line
            if "cells to run" in line:
                spoil(nodes[SPOILT])
            if "] start" in line and said.count("] start") == 2:
                made.remove_node(nodes[GOOD], allow_graceful=False)
        assert sweep.wait(60) == exit_codes.WRONG_INPUT, said
    finally:
        alarm.cancel()
        sweep.kill()
        sweep.wait()
    assert "no node is left on which a trial can be set up: node " in said
    assert "(attempt 1: the node that it waited for was lost)" in said
