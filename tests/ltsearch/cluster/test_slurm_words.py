"""What a site's file becomes: the job's script and the words in it. ``tests/cluster/test_slurm.py`` asks Slurm itself."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltsearch import sweep
from ltsearch.cluster import slurm, slurm_job
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError


def site(folder: Path, **words: Any) -> slurm.Site:
    (folder / "site.yaml").write_text(yaml.safe_dump({"cpus_per_node": 4, "time": "60", **words}))
    return slurm.read_site(folder / "site.yaml")


def asked(text: str) -> dict[str, str]:
    """What the script asks for, as a shell reads its words."""
    lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH --")]
    words = [shlex.split(line) for line in lines]
    assert all(len(line) == 1 for line in words)
    return dict(line[0].removeprefix("--").partition("=")[::2] for line in words)


def test_paths_and_words_of_any_kind_reach_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my 100% work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    place = (slurm.FOLDER / "s").absolute()
    of = site(tmp_path, constraint="a100&nvlink", gpus_per_node=4, gpu_type="a100", nodes=3, setup="module load python")
    text = slurm.script(of, "s", place)
    found = asked(text)
    assert found["output"] == f"{place}/%A_%a.log".replace("100% work", "100%% work")
    assert found["constraint"] == "a100&nvlink" and found["array"] == "0-2" and found["gpus-per-node"] == "a100:4"
    assert f"cd '{folder}'" in text and "\nmodule load python\n" in text
    assert slurm.script(site(tmp_path, mode="allocation"), "s", place).count("--no-kill") == 1
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_how_many_jobs_came_before_is_the_scripts_word(tmp_path: Path) -> None:
    """Whatever becomes of the environment (``--export=NONE``)."""
    of = site(tmp_path, python="echo", options=["--export=NONE"])
    text = slurm.script(of, "s", tmp_path)
    done = subprocess.run(["bash", "-s", "3"], input=text, text=True, capture_output=True, check=True)
    assert done.stdout.split() == ["-m", "ltsearch.cluster.slurm_job", "run", str(tmp_path / "job.json"), "3"]


def test_what_trains_is_in_the_container_and_the_job_is_not(tmp_path: Path) -> None:
    inside = site(tmp_path, python="/opt/py/bin/python", container="apptainer exec --nv 'my image.sif'")
    assert inside.command == ["apptainer", "exec", "--nv", "my image.sif", "python3"]
    text = slurm.script(inside, "s", tmp_path)
    assert "exec /opt/py/bin/python -m ltsearch.cluster.slurm_job run" in text and "apptainer" not in text
    assert site(tmp_path, python="uv run python").command == ["uv", "run", "python"]


def test_a_study_of_another_folder_is_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        names.append(slurm.job_name("study"))
    assert len(set(names)) == 2 and all(name.startswith("ltsearch-study-") for name in names)


def test_dry_run_writes_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write(tmp_path, study()))
    site(tmp_path, margin_minutes=3)
    assert sweep.main([path, "--slurm", "site.yaml", "--dry-run", "--seeds", "2", "--retry"]) == 0
    assert "job.sh: written; `sbatch` submits it" in capsys.readouterr().out
    job = slurm_job.JobFile(**json.loads((tmp_path / "slurm" / "synthetic" / "job.json").read_text()))
    assert job.margin_seconds == 180 and job.sweep == [path, "--seeds", "2", "--retry"]
    assert job.again == job.join == [path, "--seeds", "2"]


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("10", 10),
        ("10:30", 10.5),
        ("1:02:00", 62),
        ("2-3", 3060),
        ("2-3:04", 3064),
        ("1-0:0:30", 1440.5),
        ("a while", None),
    ],
)
def test_times_as_slurm_has_them(time: str, minutes: float | None) -> None:
    assert slurm.minutes(time) == minutes


def test_a_job_needs_more_time_than_its_margin(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"site\.yaml: .*time = '10' leaves nothing before margin_minutes = 10"):
        site(tmp_path, time="10", margin_minutes=10)


def test_what_does_not_go_with_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = str(write(tmp_path, study()))
    site(tmp_path)
    for words, said in (
        (["--costs"], "leave --address, --cluster, --local, --costs out"),
        (["--fresh", "--dry-run"], "--fresh with `mode: array`"),
    ):
        assert sweep.main([path, "--slurm", "site.yaml", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "slurm").exists()


def test_a_jobs_folder_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", f"test-{os.getpid()}")
    monkeypatch.setenv("RAY_TMPDIR", "")
    with slurm_job.private_folder() as folder:
        (folder / "left").write_text("of a node that lost its power")
        assert folder.stat().st_mode & 0o777 == 0o700
        with slurm_job.private_folder() as again:
            assert again == folder and not any(again.iterdir())
    assert not folder.exists()


def test_a_node_that_cannot_reach_the_head_says_which_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(slurm_job, "ASKED", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # but does not listen
        port = taken.getsockname()[1]
        assert slurm_job.node(f"127.0.0.1:{port}", head=False) == 1
    said = capsys.readouterr().out
    assert f"cannot reach Ray's head at 127.0.0.1, port {port} (Connection refused)" in said and said.count("\n") == 1


def test_a_job_that_slurm_took_without_saying_so_is_not_submitted_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of an ``sbatch`` that ran into Slurm's message timeout: these two stand for such a Slurm."""
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\nexit 1\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho '7 (null)'\necho '71 afterany:6(unfulfilled)'\n"
                                     "echo '72 afterany:61(unfulfilled)'\n")  # fmt: skip
    for name in ("sbatch", "squeue"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    job = slurm_job.JobFile("s", "allocation", ["python"], "", 600.0, 3, "job.sh", [], [], [])
    assert slurm_job.follow(job, 0) == "71" and (tmp_path / "asked").read_text() == "asked\n"
