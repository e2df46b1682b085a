"""Where a command runs, what is sent there, and a sweep that outlives who started it. Three real hosts: tests/cluster."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltsearch.cluster import host_setup, ray_cluster, remote
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.spec import load
from ltsearch.sweep import parser, typed
from tests.ltsearch.helpers import ROOT, environment, study, sweep, write
from trainables.errors import UserError

FILES = ["cluster.yaml", "docs/cluster/aws.yaml", "docs/cluster/gcp.yaml"]


@pytest.fixture
def ray_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Ray and we look for what is up; and a home without a cluster."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path


def brought_up(state: str) -> None:
    """What `ray up` and `ray down` note, noted by Ray itself."""
    from ray.autoscaler._private.local.node_provider import LocalNodeProvider
    from ray.autoscaler._private.util import prepare_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    provider = LocalNodeProvider(config["provider"], config["cluster_name"])
    provider.create_node({}, {"ray-node-type": "head"}, 1)
    provider.set_node_tags("10.0.0.1", {"ray-node-status": state})
    if state == "down":
        provider.terminate_node("10.0.0.1")


# -- the files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_files_pass_rays_own_check(file: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="unexpected"):  # and the check sees something
        validate_config(prepare_config({**config, "worker_start_commands": []}))
    for local in config["file_mounts"].values():
        assert (ROOT / local).exists()


@pytest.mark.parametrize("file", FILES)
def test_files_are_closed_by_default(file: str) -> None:
    config = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start and "0.0.0.0" not in (ROOT / file).read_text()
    assert "export RAY_AUTH_MODE=token" in " ".join(config["setup_commands"])
    assert "~/.ray/auth_token" in config["cluster_synced_files"]
    assert "mlflow server" not in start or "--host 127.0.0.1" in start and "--allowed-hosts" in start


def test_the_rayjob_is_yaml_with_the_version_that_is_installed() -> None:
    import ray

    tree = yaml.safe_load((ROOT / "docs" / "cluster" / "rayjob.yaml").read_text(encoding="utf-8"))
    spec = tree["spec"]["rayClusterSpec"]
    assert spec["rayVersion"] == ray.__version__ and spec["authOptions"] == {"mode": "token"}
    assert tree["spec"]["entrypoint"].startswith("python -m ltsearch.sweep ")


# -- where a command runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "up"), [("up-to-date", True), ("update-failed", False), ("down", False)])
def test_a_cluster_is_found_when_it_is_up(ray_folder: Path, state: str, up: bool) -> None:
    file = ROOT / "cluster.yaml"
    assert ray_cluster.started(file, asked=False) is None
    brought_up(state)
    found = ray_cluster.started(file, asked=False)
    assert found == (ray_cluster.Cluster("ltsearch", file, "10.0.0.1") if up else None)


def test_which_cluster(ray_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    brought_up("up-to-date")
    assert ray_cluster.elsewhere(None, None, False) is not None  # the default
    assert ray_cluster.elsewhere(None, None, True) is None  # --local
    assert ray_cluster.elsewhere(None, "10.0.0.1:6379", False) is None  # --address
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")  # on a host of a cluster
    assert ray_cluster.elsewhere(None, None, False) is None and ray_cluster.head_address() == "10.0.0.9:6379"
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # for `ray job submit`; no address of ours
    assert ray_cluster.head_address() is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cluster", "nowhere.yaml"], "--cluster nowhere.yaml: no such file"),
        (["--cluster", "study.yaml"], "--cluster study.yaml: not the file of a Ray cluster"),
        (["--cluster", str(ROOT / "cluster.yaml")], "not up; start it with `ray up"),
        (["--cluster", "c.yaml", "--local"], "--cluster c.yaml and --local exclude each other"),
        (
            ["--address", "auto"],
            "--address auto: no Ray cluster runs on this host; start one with `ray up cluster.yaml`",
        ),
        (["--address", "ray://127.0.0.1:10001"], "Ray Client addresses do not work here"),
    ],
)
def test_bad_input_is_one_message(ray_folder: Path, words: list[str], message: str) -> None:
    ran = sweep(ray_folder, str(write(ray_folder, study()).name), *words)
    assert ran.returncode == 2 and ran.stdout == "", ran.stdout + ran.stderr
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1 and message in ran.stderr
    assert not (ray_folder / "store").exists()


def test_nothing_listens(ray_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address} \\(Connection refused\\)"):
            ray_cluster.join(address)


# -- what is sent ----------------------------------------------------------------------------------------------------------


def test_the_tree_is_what_git_knows_without_data(tmp_path: Path) -> None:
    for name in (
        "ltsearch/a.py",
        "data/x.bin",
        "store/cells/c/record.json",
        "mlflow.db",
        "trainables/data/b.py",
        ".venv/p",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert remote.tree_files(tmp_path) == ["ltsearch/a.py", "trainables/data/b.py"]  # without git
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("*.bin\n")
    (tmp_path / "ltsearch" / "weights.bin").write_text("x")
    assert remote.tree_files(tmp_path) == [".gitignore", "ltsearch/a.py", "trainables/data/b.py"]


def test_the_same_tree_has_the_same_name(tmp_path: Path) -> None:
    outside = write(tmp_path, study(), "mine.yaml")
    with remote.packed(ROOT / "search_spaces" / "digits_lt.yaml") as tree:
        name = tree.name
        assert tree.spec == "search_spaces/digits_lt.yaml"
        with tarfile.open(tree.file) as tar:
            sent = tar.extractfile(".commit")
            assert sent is not None and len(sent.read().decode().split(" ")[0]) == 12
            assert {"ltsearch/sweep.py", "constraints.txt"} <= set(tar.getnames())
    with remote.packed(ROOT / "search_spaces" / "digits_lt.yaml") as tree:
        assert tree.name == name
    with remote.packed(outside) as tree:
        assert tree.name != name and tree.spec == "specs/mine.yaml"


def test_a_study_outside_brings_what_it_extends(tmp_path: Path) -> None:
    """Also by a path that leads nowhere on the head; a text that looks like a number stays a text."""
    (tmp_path / "common").mkdir()
    write(tmp_path / "common", study(), "base.yaml")
    mine = tmp_path / "mine.yaml"
    mine.write_text('extends: common/base.yaml\nname: mine\nquestion: "1e-4"\n')
    with remote.packed(mine) as tree, tarfile.open(tree.file) as tar:
        tar.extract("specs/mine.yaml", tmp_path / "head", filter="data")
    sent = load(tmp_path / "head" / "specs" / "mine.yaml").spec
    assert sent == load(mine).spec.model_copy(update={"extends": None}) and sent.question == "1e-4"


def said(words: list[str]) -> tuple[Choice, RunOptions]:
    return typed(parser().parse_args(words))


def test_what_was_typed_is_passed_on_but_for_the_place() -> None:
    words = [
        "x.yaml",
        "--cluster",
        "c.yaml",
        "--profile",
        "tiny",
        "--set",
        "a=1",
        "--set",
        "b=x y",
        "--fresh",
        "--retry",
        "--seeds",
        "2",
    ]
    choice, options = said([*words, "--storage", "s3://bucket/store"])
    words = remote.passed_on(choice, options)
    assert said(["x.yaml", *words]) == (choice, replace(options, cluster=None, address="auto"))
    assert remote.passed_on(*said(["x.yaml"])) == ["--address", "auto"]


# -- on the head -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Any]:
    """``python -m ltsearch.cluster.detached`` as on a head, in a home of its own."""
    home = tmp_path / "home"
    (home / "ltsearch" / "trees").mkdir(parents=True)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ltsearch.cluster.detached", *words]
        env = {**environment(tmp_path), "HOME": str(home)}
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    yield call
    for pid in (home / "ltsearch" / "jobs").glob("*/pid"):
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass


def answer(ran: subprocess.CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.removeprefix("@ltsearch "))


def test_a_detached_sweep_that_cannot_start(head: Any) -> None:
    assert answer(head("state", "x")) == {"state": "none"}
    assert answer(head("start", "x", "nowhere.yaml", "--local"))["state"] == "started"
    first, end = head("follow", "x", "0").stdout.splitlines()
    mark, offset, text = first.split(" ", 2)
    assert (mark, int(offset), end) == ("@ltsearch", len(text.encode()) + 1, "@ltsearch end")
    assert text.startswith("error: nowhere.yaml: no such file")
    assert answer(head("state", "x"))["exit"] == 2
    assert head("follow", "x", offset).stdout.splitlines() == ["@ltsearch end"]  # from a byte on


@pytest.mark.slow
def test_a_detached_sweep_runs_once_and_stops(head: Any, tmp_path: Path) -> None:
    write(tmp_path, study(**{"base.synthetic.epoch_seconds": 1.0}))
    words = ["study.yaml", "--local"]
    assert answer(head("start", "x", *words))["state"] == "started"
    deadline = time.monotonic() + 90
    log = tmp_path / "home" / "ltsearch" / "jobs" / "x" / "log"
    while "] start" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    second = answer(head("start", "x", *words))
    assert second["state"] == "running" and second["words"] == words
    assert answer(head("stop", "x")) == {**second, "state": "ended", "exit": 130}
    assert "interrupted; nothing finished is lost" in log.read_text()


# -- on every host -----------------------------------------------------------------------------------------------------------


def test_a_host_with_everything_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    different = host_setup.differing(tmp_path)
    venv = tmp_path / "venv"
    if not different:  # true in the environment of the Makefile
        assert host_setup.main(tmp_path, venv) == 0 and "has everything" in capsys.readouterr().out
        assert not venv.exists()
    (tmp_path / "constraints.txt").write_text("ray==1.0\nlt_no_such_package==3.0\n")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["ray[default]>=2", "lt-no.such-package; x"]\n')
    import ray

    assert host_setup.differing(tmp_path) == [
        f"ray 1.0 (here: {ray.__version__})",
        "lt-no-such-package 3.0 (here: none)",
    ]
