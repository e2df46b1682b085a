"""A study from a laptop on three hosts, one of which loses power in mid-trial: ``pytest -m cluster`` (Linux, root).

Real sshd, real `ray up`, real Ray; the hosts are namespaces of this machine (``tests/cluster/hosts.py``). Everything happens
once, in ``story``; the tests look at what came of it, and the last ones take the cluster down.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltsearch.cluster.packing import tree_files
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from tests.cluster.hosts import ROOT, SHARED, Host, Hosts, missing

WHY = missing()
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(2700),
    pytest.mark.skipif(WHY is not None, reason=f"no hosts here: {WHY}"),
]
PROJECT = "/root/project"
SWEEP = "python -m ltsearch.sweep study.yaml"
CELLS = 2  # of the ablation


def study() -> dict[str, Any]:
    """Trials of two workers on two hosts: an ablation, and a search that stops early."""
    return {
        "name": "hosts",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.5},
            "model": {"backbone": "resnet8"},
            "method": {"name": "ncl_pp", "inter": False, "intra": False},
            "training": {"epochs": 6, "batch_size": 32, "precision": "fp64"},
        },
        "seeds": 1,
        "ablation": {
            "components": {"InterCL": {"method.inter": True, "model.experts": 2}},
            "rows": [{"name": "BIL"}, {"name": "InterCL", "with": ["InterCL"]}],
        },
        "search": {
            "sampler": "random",
            "val_per_class": 10,
            "trials": 4,
            "metrics": [{"name": "val/single_top1"}],
            "early_stopping": {"grace_epochs": 2, "reduction_factor": 2},
            "confirm": None,
            "space": {"optimizer.lr": {"loguniform": [0.01, 0.5]}},
        },
        "resources": {
            "workers": 2,
            "cpus_per_worker": 1,
            "placement": "spread",
            "checkpoint_seconds": 0,
            "max_concurrent": 2,
        },
    }


def cluster_file(hosts: Hosts) -> str:
    """The repository's, with what a user edits."""
    text = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    addresses = [host.address for host in hosts.hosts]
    for ours, theirs in (
        ("head_ip: 10.0.0.1 ", f"head_ip: {addresses[0]} "),
        ("worker_ips: [10.0.0.2, 10.0.0.3]", f"worker_ips: [{', '.join(addresses[1:])}]"),
        ("ssh_user: ubuntu", "ssh_user: root"),
        ("LTSEARCH_STORAGE=/shared/ltsearch", f"LTSEARCH_STORAGE={SHARED}/ltsearch"),
        ("LTSEARCH_DATA=/shared/data", f"LTSEARCH_DATA={SHARED}/data"),
    ):
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


def until(seconds: float, what: str, true: Callable[[], Any]) -> Any:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not in {seconds:g} s"
        time.sleep(0.2)
    return found


class Output:
    """A process's output, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.text = process, ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line

    def wait(self, seconds: float) -> int:
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not over in {seconds:g} s; it said:\n{self.text}") from None
        self._thread.join(10)
        return code


@dataclass
class Story:
    """What was done, and what was seen."""

    hosts: Hosts
    alone: str = ""  # output of the one-machine run
    first: str = ""  # output until the laptop's process was killed
    left: str = ""  # output of the attached one until Ctrl-C
    left_code: int = -1
    second: str = ""  # output after attaching again
    code: int = -1
    lost: str = ""  # the host without power
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def laptop(self) -> Host:
        return self.hosts.laptop

    @property
    def head(self) -> Host:
        return self.hosts.hosts[0]

    def cells(self, folder: str) -> dict[str, CellRecord]:
        store = CellStore(self.hosts.shared / folder)
        found = {p.parent.name: store.read(p.parent.name) for p in (store.root / "cells").glob("*/record.json")}
        return {cell: record for cell, record in found.items() if record is not None}

    def nodes(self) -> int:
        """Living nodes, as Ray's own command counts them."""
        said = self.head.run("ray status").stdout
        active = said.partition("Active:")[2].partition("Pending:")[0]
        return sum(int(number) for number in re.findall(r"^ *(\d+) ", active, re.MULTILINE))


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with Hosts() as hosts:
        story = Story(hosts)
        tell(story)
        yield story


def tell(story: Story) -> None:
    hosts, laptop = story.hosts, story.laptop
    began = time.monotonic()
    folder = laptop.folder / "root" / "project"
    for name in tree_files(ROOT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    (folder / "study.yaml").write_text(yaml.safe_dump(study(), sort_keys=False), encoding="utf-8")
    (folder / "cluster.yaml").write_text(cluster_file(hosts), encoding="utf-8")

    # On one machine, while the hosts get up.
    alone = Output(laptop.start(f"{SWEEP} --local --storage {SHARED}/alone --set report.folder=alone", PROJECT))
    up = laptop.run("ray up -y cluster.yaml", PROJECT, timeout=480)
    assert up.returncode == 0, up.stdout + up.stderr
    until(240, "three nodes", lambda: story.nodes() == 3)
    story.seconds["up"] = time.monotonic() - began
    assert alone.wait(900) == 0, alone.text
    story.alone = alone.text

    # The laptop starts the study and is closed, with no word to anybody.
    began = time.monotonic()
    process = laptop.start(SWEEP, PROJECT)
    first = Output(process)
    until(300, "a trial runs", lambda: "] start  BIL" in first.text)
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait(90)
    story.first = first.text

    # It comes back, and is left with Ctrl-C.
    process = laptop.start(SWEEP, PROJECT)
    left = Output(process)
    until(180, "attached", lambda: "] start  BIL" in left.text)
    os.kill(
        next(pid for pid in children(process.pid) if command_line(pid).startswith("python -m ltsearch")), signal.SIGINT
    )
    story.left_code = left.wait(90)
    story.left = left.text

    # It comes back once more; then a host loses power while it is at an epoch, and the laptop its connection.
    second = Output(laptop.start(SWEEP, PROJECT))
    until(300, "a checkpoint", lambda: list((hosts.shared / "ltsearch").glob("cells/*/checkpoint.pt")))
    host = until(180, "a worker", lambda: next((h for h in hosts.hosts[1:] if h.processes("RayTrainWorker")), None))
    host.power_off()
    laptop.run("pkill -x ssh")  # in its own process namespace
    story.lost = host.address
    story.code = second.wait(900)
    story.second = second.text
    story.seconds["study"] = time.monotonic() - began
    print(f"\n{story.first}\n-- closed, and back --\n{story.second}\n{story.seconds}")


def children(pid: int) -> list[int]:
    """A process and all below it, the lowest last; of the process tree as this machine sees it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += children(int(child))
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def test_the_first_line_says_where_it_runs(story: Story) -> None:
    assert story.alone.startswith("runs on this machine (")
    assert story.first.startswith("runs on cluster ltsearch, head 10.77.0.1, 3 nodes ("), story.first


def test_closing_the_laptop_stops_nothing(story: Story) -> None:
    assert "report:" not in story.first + story.left
    assert story.left.startswith("hosts runs on cluster ltsearch already: attached\n") and story.left_code == 130
    assert "detached; hosts goes on on cluster ltsearch" in story.left
    assert "`python -m ltsearch stop study.yaml` ends it" in story.left
    assert story.second.startswith("hosts runs on cluster ltsearch already: attached\n"), story.second
    # The whole log of one driver, each line once, though the connection broke in between.
    assert "the connection to 10.77.0.1 broke; trying again" in story.second
    assert (
        story.second.count("runs on cluster ltsearch, head")
        == story.second.count("start  BIL") - story.second.count("retry  BIL")
        == 1
    )
    assert story.code == 0, story.second
    assert "Traceback" not in story.first + story.second


def test_rows_are_those_of_one_machine_though_a_host_was_lost(story: Story) -> None:
    assert "] retry" in story.second, story.second
    ours, theirs = story.cells("ltsearch"), story.cells("alone")
    rows = {cell for cell, record in theirs.items() if "test/ensemble_top1" in record.final}
    assert len(rows) == CELLS and rows <= ours.keys()
    for cell in rows:
        assert ours[cell].final["test/ensemble_top1"] == pytest.approx(
            theirs[cell].final["test/ensemble_top1"], abs=1e-4
        )
        assert ours[cell].final["test/single_top1"] == pytest.approx(theirs[cell].final["test/single_top1"], abs=1e-4)
        assert curve(ours[cell]) == [pytest.approx(epoch, rel=1e-6) for epoch in curve(theirs[cell])]
    # As the reader sees them, in the report that was fetched.
    table = [read_table(story, folder) for folder in ("results", "alone")]
    assert table[0] == table[1] and [row["row"] for row in table[0]] == ["BIL", "InterCL"]


def test_search_cells_have_the_same_curves(story: Story) -> None:
    ours, theirs = story.cells("ltsearch"), story.cells("alone")
    both = [cell for cell in ours.keys() & theirs.keys() if "test/ensemble_top1" not in theirs[cell].final]
    assert len(both) == 4  # random draws: the same in both
    states = {str(run[cell].status) for cell in both for run in (ours, theirs)}
    assert states == {"finished", "pruned"}
    for cell in both:
        epochs = list(zip(curve(ours[cell]), curve(theirs[cell]), strict=False))  # either may have been stopped before
        assert len(epochs) >= 2
        assert all(a == pytest.approx(b, rel=1e-6) for a, b in epochs)


def curve(record: CellRecord) -> list[list[float]]:
    return [[epoch.metrics[key] for key in ("train/loss", "train/top1")] for epoch in record.history]


def read_table(story: Story, folder: str) -> list[dict[str, str]]:
    path = story.laptop.folder / "root" / "project" / folder / "hosts" / "ablation.csv"
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_report_is_fetched(story: Story) -> None:
    assert story.second.endswith("report: results/hosts/report.md\nfetched: results/hosts/report.md\n"), story.second
    folder = story.laptop.folder / "root" / "project" / "results" / "hosts"
    report = (folder / "report.md").read_text()
    assert (folder / "export.zip").exists()
    assert (story.head.folder / "root" / "ltsearch" / "results" / "hosts" / "report.md").exists()  # there too
    token = (story.head.folder / "root" / ".ray" / "auth_token").read_text().strip()
    assert "InterCL" in report and token not in report + story.first + story.second


def test_a_host_that_comes_back_joins_again(story: Story) -> None:
    host = next(host for host in story.hosts.hosts if host.address == story.lost)
    host.power_on()
    until(300, "three nodes", lambda: story.nodes() == 3)


def test_trials_of_one_worker_run_on_every_host(story: Story) -> None:
    """Their actors lie on hosts that see nothing of the driver's but the storage."""
    tree = study()
    for key in ("ablation", "search"):
        del tree[key]
    tree["name"], tree["seeds"] = "single", 6
    tree["base"]["training"]["epochs"] = 2
    tree["ablation"] = {"rows": [{"name": "BIL"}]}
    tree["resources"] = {"workers": 1, "cpus_per_worker": 1}
    file = story.laptop.folder / "root" / "project" / "single.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    ran = Output(story.laptop.start("python -m ltsearch.sweep single.yaml", PROJECT))
    hosts: set[str] = set()
    while ran.process.poll() is None:
        hosts |= {host.name for host in story.hosts.hosts if host.processes("ray::ResourceTrainable")}
        time.sleep(0.1)
    assert ran.wait(10) == 0, ran.text
    assert "retry" not in ran.text and hosts == {"h1", "h2", "h3"}, f"{hosts}\n{ran.text}"


def test_other_options_and_stop(story: Story) -> None:
    """A study runs once; who types it with other options is told how to see or end the one that runs."""
    longer = f"{SWEEP} --set base.training.epochs=200 --set search=null"
    running = Output(story.laptop.start(longer, PROJECT))
    until(240, "a trial runs", lambda: "] start" in running.text)
    other = story.laptop.run(SWEEP, PROJECT)
    assert other.returncode == 2 and other.stdout == "" and other.stderr.count("\n") == 1
    assert "hosts runs on cluster ltsearch already, as `python -m ltsearch.sweep study.yaml" in other.stderr
    stopped = story.laptop.run("python -m ltsearch stop study.yaml", PROJECT)
    assert stopped.stdout == "hosts on cluster ltsearch: ended, exit code 130\n", stopped.stdout + stopped.stderr
    assert running.wait(180) == 130, running.text


def test_closed_to_others(story: Story) -> None:
    """No token, no entry; the dashboard listens on the head itself only; the token is its owner's."""
    other = story.laptop
    probe = "import socket,sys; socket.create_connection(('10.77.0.1', int(sys.argv[1])), 3)"
    assert other.run(["python", "-c", probe, "6379"]).returncode == 0
    assert "refused" in other.run(["python", "-c", probe, "8265"]).stderr
    assert status(story.head, "http://127.0.0.1:8265/api/version") == "401"
    for host in story.hosts.hosts:
        token = host.folder / "root" / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert not [line for line in host.processes() if token.read_text().strip() in line]
    ran = other.run(f"{SWEEP} --address 10.77.0.1:6379 --storage {SHARED}/refused", PROJECT)
    assert ran.returncode == 2 and "Traceback" not in ran.stderr
    assert "the Ray cluster at 10.77.0.1:6379 refuses this host's token" in ran.stderr
    assert not (story.hosts.shared / "refused").exists()


def test_the_laptop_leaves_no_tunnel(story: Story) -> None:
    """Not on the head, and not at home: neither when it was killed nor when it was left."""
    until(90, "tunnels end", lambda: not story.head.processes("sleep infinity") and not running(story.laptop, "ssh"))


def test_a_dashboard_that_is_gone(story: Story) -> None:
    """It is Ray's, and nothing restarts it; what runs does not need it."""
    tree = study() | {"name": "deaf", "ablation": {"rows": [{"name": "BIL"}]}, "resources": {"workers": 1}}
    del tree["search"]
    tree["base"]["synthetic"] = {"epoch_seconds": 20}
    (story.laptop.folder / "root" / "project" / "deaf.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    running = Output(story.laptop.start("python -m ltsearch.sweep deaf.yaml", PROJECT))
    until(240, "a trial runs", lambda: "] start" in running.text)
    (line,) = [
        line for line in story.head.run("ps -eo pid,args").stdout.splitlines() if "dashboard/dashboard.py" in line
    ]
    pid, _, command = line.strip().partition(" ")
    story.head.run(["kill", "-9", pid])
    ran = story.laptop.run("python -m ltsearch jobs", PROJECT)
    assert ran.returncode == 2 and ran.stderr.count("\n") == 1
    assert "its head 10.77.0.1 is there, but its dashboard does not answer on its port 8265" in ran.stderr
    story.head.start(
        f"RAY_AUTH_MODE=token {command} > /tmp/dashboard.log 2>&1 < /dev/null", "/root", start_new_session=True
    )
    until(240, "a dashboard", lambda: story.laptop.run("python -m ltsearch jobs", PROJECT).returncode == 0)
    assert running.process.poll() is None and "broke; trying again" in running.text, running.text
    # Nor does a head that stalls end its workers.
    before = story.nodes(), len(running.text)
    stall = (
        "pkill -STOP -x gcs_server; pkill -STOP -x raylet; sleep 20; pkill -CONT -x raylet; pkill -CONT -x gcs_server"
    )
    story.head.run(stall)
    time.sleep(10)
    assert story.nodes() == before[0] == 3 and "retry" not in running.text[before[1] :], running.text
    assert story.laptop.run("python -m ltsearch stop deaf.yaml", PROJECT).returncode == 0
    assert running.wait(180) == 130


def test_a_wrong_token_on_the_head(story: Story) -> None:
    token = story.head.folder / "root" / ".ray" / "auth_token"
    right = token.read_text()
    token.write_text("0" * 64)
    try:
        ran = story.laptop.run(f"{SWEEP} --storage {SHARED}/refused", PROJECT)
    finally:
        token.write_text(right)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    said = ran.stdout + ran.stderr
    assert said.startswith("error: the Ray cluster at 10.77.0.1 refuses its own token") and said.count("\n") == 1
    assert not (story.hosts.shared / "refused").exists()


def status(client: Host, url: str, host: str = "") -> str:
    """HTTP status of a GET from there, or why there is none."""
    script = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "request = u.Request(sys.argv[1], headers={'Host': sys.argv[2]} if sys.argv[2] else {})\n"
        "try: print(u.urlopen(request, timeout=5).status)\n"
        "except e.HTTPError as error: print(error.code)\n"
        "except OSError as error: print(error)"
    )
    return client.run(["python", "-c", script, url, host]).stdout.strip()


def test_mlflow_is_reached_through_ssh_only(story: Story) -> None:
    """The command of docs/cluster.md: a server on the head's loopback, and a tunnel to it."""
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    command = next(line for line in text.splitlines() if line.startswith("ray exec cluster.yaml --port-forward 5000"))
    tunnel = Output(story.laptop.start(command, PROJECT, start_new_session=True))
    try:
        url = "http://localhost:5000/api/2.0/mlflow/experiments/get-by-name?experiment_name=hosts"
        until(240, "MLflow", lambda: status(story.laptop, url) == "200")
        assert status(story.laptop, url, host="evil.example") == "403"
        assert "refused" in status(story.laptop, "http://10.77.0.1:5000/")
    finally:
        os.killpg(tunnel.process.pid, signal.SIGTERM)
        tunnel.wait(90)
    until(90, "the server's end", lambda: not story.head.processes("mlflow"))


def test_an_unreachable_head(story: Story) -> None:
    subprocess.run(["ip", "-n", story.head.namespace, "link", "set", "e0", "down"], check=True)
    began = time.monotonic()
    try:
        ran = story.laptop.run(f"{SWEEP} --fresh", PROJECT)
    finally:
        subprocess.run(["ip", "-n", story.head.namespace, "link", "set", "e0", "up"], check=True)
        subprocess.run(
            ["ip", "-n", story.head.namespace, "route", "replace", "default", "via", story.laptop.address], check=True
        )
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr.startswith("error: cluster ltsearch (cluster.yaml): its head 10.77.0.1 does not answer (")
    assert "Nothing was started" in ran.stderr and ran.stderr.count("\n") == 1
    assert time.monotonic() - began < 180


def test_down_leaves_nothing(story: Story) -> None:
    down = story.laptop.run("ray down -y cluster.yaml", PROJECT, timeout=360)
    assert down.returncode == 0, down.stdout + down.stderr
    for host in story.hosts.hosts:
        for word in ("raylet", "gcs_server", "ltsearch", "ray::", "dashboard"):
            until(240, f"{word} on {host.name} ends", lambda host=host, word=word: not running(host, word))
    ran = story.laptop.run(f"{SWEEP} --cluster cluster.yaml", PROJECT)
    assert ran.returncode == 2 and "--cluster cluster.yaml: not up; start it with `ray up cluster.yaml`" in ran.stderr

    inits = [host.init for host in story.hosts.all]
    story.hosts.__exit__()
    assert not [init for init in inits if Path(f"/proc/{init}").exists()]
    assert story.hosts.name not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    assert str(story.hosts.folder) not in Path("/proc/mounts").read_text() and not story.hosts.folder.exists()


def running(host: Host, word: str) -> list[str]:
    """But for PID 1, whose command line holds the host's folder."""
    return [line for line in host.processes(word) if not line.startswith("bash -c \nset -eu")]
