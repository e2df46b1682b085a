"""Where a command runs, and the files of clusters. Three real hosts: tests/cluster."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import yaml

from ltsearch.cluster import host_setup, ray_cluster
from tests.ltsearch.helpers import ROOT, study, sweep, write
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
    url = "https://ray.example:8265/"
    assert ray_cluster.elsewhere(url, None, False) == ray_cluster.Cluster(
        "ray.example:8265", Path(), "ray.example", url.rstrip("/")
    )
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
        (["--cluster", "http://me:secret@head:8265"], "a token is not part of it"),
        (["--cluster", "ftp://head:8265"], "the address of a dashboard, such as http://127.0.0.1:8265"),
        (["--cluster", "http://127.0.0.1:1"], "no job API of a Ray cluster answers there"),
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
