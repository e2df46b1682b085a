"""A sweep through Ray's job API: on a real head of this machine, with a token. Through ssh to three hosts: tests/cluster."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import ServerDisconnectedError

from ltsearch.cluster import ray_jobs
from ltsearch.cluster.tunnel import Unreachable
from ltsearch.study.options import Choice, RunOptions
from ltsearch.sweep import parser, typed
from tests.ltsearch.helpers import environment, study, write
from trainables.errors import UserError


def said(words: list[str]) -> tuple[Choice, RunOptions]:
    return typed(parser().parse_args(words))


def test_what_was_typed_is_passed_on_but_for_the_place() -> None:
    words = (
        "x.yaml --cluster c.yaml --profile tiny --set a=1 --fresh --retry --seeds 2 --storage s3://bucket/store".split()
    )
    choice, options = said([*words, "--set", "b=x y"])
    passed = ray_jobs.passed_on(choice, options)
    assert said(["x.yaml", *passed]) == (choice, replace(options, cluster=None, address="auto"))
    assert ray_jobs.passed_on(*said(["x.yaml"])) == ["--address", "auto"]


@pytest.mark.parametrize("place", ["cells", "./cells", "../cells"])
def test_a_place_in_the_copy_is_refused(place: str) -> None:
    with pytest.raises(UserError, match="lies in the copy of this checkout, which goes"):
        ray_jobs.passed_on(*said(["x.yaml", "--storage", place]))


def test_each_line_of_a_log_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    """However the log is cut into pieces and however often it is told again; what Ray says around it never."""
    text = "Runtime env is set up.\n@ltsearch\nRunning entrypoint for job a: echo @ltsearch; x\none\ntwö\nthree\n"
    lines = text.splitlines(keepends=True)
    for many in range(1, len(lines) + 1):  # lines that come before the connection breaks
        log = ray_jobs._Log()
        for heard in (lines[:many], lines):
            log._heard = 0
            for line in heard:
                log.show(line)
        log.end()
        assert capsys.readouterr() == ("one\ntwö\nthree\n", "")
    log = ray_jobs._Log()
    log.show("the environment cannot be made: disk full\n")  # and no first word of ours
    log.end()
    assert capsys.readouterr() == ("", "the environment cannot be made: disk full\n")


class Scripted:
    """A head whose connections end as a script says: an exception, ``None`` for a clean end, a number of silent seconds."""

    def __init__(self, *connections: list[Any], gone: bool = False) -> None:
        self.cluster = SimpleNamespace(head="h", name="c")
        self.connections, self.gone, self.tails = list(connections), gone, 0

    def client(self) -> Scripted:
        return self

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        self.tails += 1
        for word in self.connections.pop(0):
            if isinstance(word, float):
                await asyncio.sleep(word)
            elif isinstance(word, Exception):
                raise word
            else:
                yield word

    def get_job_info(self, name: str) -> Any:
        if self.gone:
            raise UserError("Job a does not exist")
        over = not self.connections
        return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: over))

    def ask(self, what: Callable[[Any], Any]) -> Any:
        return what(self)


def test_a_log_is_followed_through_what_may_happen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_jobs, "QUIET_SECONDS", 0.02)
    monkeypatch.setattr(ray_jobs, "AGAIN_SECONDS", 0.0)
    begun = "@ltsearch\n"
    head = Scripted(
        [begun, "one\n", ServerDisconnectedError()],
        [begun, "one\n", 0.2, "two\n"],
        [begun, "one\n", "two\n", "three\n"],
    )
    ray_jobs.follow(cast(Any, head), "a")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\nthree\n" and err.count("broke; trying again") == 1
    assert head.tails == 3  # one that was silent for long was left as it was
    with pytest.raises(UserError, match="does not exist"):  # by a head that was restarted
        ray_jobs.follow(cast(Any, Scripted([ServerDisconnectedError()], gone=True)), "a")
    monkeypatch.setattr(ray_jobs, "PATIENCE_SECONDS", -1.0)
    with pytest.raises(Unreachable):
        ray_jobs.follow(cast(Any, Scripted([ServerDisconnectedError()], [])), "a")


# -- on a head -----------------------------------------------------------------------------------------------------------


@dataclass
class Laptop:
    """A user's home and folder, and the address of a dashboard."""

    folder: Path
    url: str
    environment: dict[str, str]

    def start(self, *words: str, module: str = "ltsearch.sweep", **environment: str) -> subprocess.Popen[str]:
        out = open(self.folder / "out", "w")
        with out:
            return subprocess.Popen(
                [sys.executable, "-m", module, *words, "--cluster", self.url],
                cwd=self.folder,
                env={**self.environment, **environment},
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def out(self) -> str:
        return (self.folder / "out").read_text()

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        return self.start(*words, **more).wait(180), self.out()

    def verb(self, *words: str) -> tuple[int, str]:
        return self.run(*words, module="ltsearch")


def until(seconds: float, what: Callable[[], Any]) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    """With a head beside it, in a short folder: Ray's sockets lie there."""
    folder = tmp_path_factory.mktemp("laptop")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    free = [socket.socket() for _ in range(6)]
    for one in free:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in free]
    for one in free:
        one.close()
    names = "port dashboard-port dashboard-agent-listen-port dashboard-agent-grpc-port metrics-export-port "
    names += "runtime-env-agent-port"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**environment(folder), "HOME": str(folder), "PATH": path, "RAY_AUTH_MODE": "token"}
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "LTSEARCH_STORAGE"):
        env.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="lt", dir="/tmp", ignore_cleanup_errors=True) as short:
        head = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                "--num-cpus=2",
                "--disable-usage-stats",
            ]
            + ["--dashboard-host=127.0.0.1", "--object-store-memory=100000000", f"--temp-dir={short}/r"]
            + [f"--{name}={port}" for name, port in zip(names.split(), ports, strict=True)],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            env.pop("RAY_AUTH_MODE")
            laptop = Laptop(folder, f"http://127.0.0.1:{ports[1]}", env)
            until(90, lambda: laptop.verb("jobs")[0] == 0 or head.poll() is not None)
            assert head.poll() is None, "Ray did not start"
            yield laptop
        finally:
            head.terminate()
            head.wait(60)
            until(30, lambda: not [pid for pid in Path("/proc").glob("[0-9]*/cmdline") if short.encode() in _read(pid)])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_goes_on_without_its_laptop(laptop: Laptop) -> None:
    """Closed by ``kill -9``, found again, left with Ctrl-C, looked at, its report fetched in the middle, and stopped."""
    assert laptop.verb("jobs")[1].startswith("no sweep was sent to cluster 127.0.0.1:")
    write(
        laptop.folder, study(**{"base.synthetic.epoch_seconds": 1.0, "name": "long", "search.trials": 40}), "long.yaml"
    )
    began = laptop.start("long.yaml")
    until(90, lambda: "] finished" in laptop.out())
    assert laptop.out().startswith("runs on a Ray cluster, head ")
    os.killpg(began.pid, signal.SIGKILL)
    began.wait()

    code, text = laptop.run("long.yaml", "--seeds", "1")
    assert code == 2 and text.count("\n") == 1
    assert "long runs on cluster 127.0.0.1:" in text and "already, as `python -m ltsearch.sweep long.yaml " in text

    again = laptop.start("long.yaml")
    until(60, lambda: "] finished" in laptop.out())
    again.send_signal(signal.SIGINT)
    assert again.wait(30) == 130
    text = laptop.out()
    assert text.count("runs on a Ray cluster") == text.count("start  base · seed 0") == 1
    assert "Running entrypoint" not in text and "detached; long goes on on cluster 127.0.0.1:" in text

    code, text = laptop.verb("status", "long.yaml")
    assert code == 0 and ": running\n" in text and " of 48 cells done" in text, text
    assert laptop.verb("fetch", "long.yaml") == (0, "fetched: results/long/report.md\n")
    assert {"report.md", "report.html", "export.zip"} <= {
        path.name for path in (laptop.folder / "results/long").iterdir()
    }

    code, text = laptop.verb("stop", "long.yaml")
    assert code == 0 and text.endswith(": ended, exit code 130\n")
    code, text = laptop.verb("attach", "long.yaml")
    assert code == 130 and text.endswith("interrupted; nothing finished is lost, the same command goes on\n")
    code, text = laptop.verb("jobs")
    assert code == 0 and text.count("\n") == 1 and text.startswith("long  ended, exit code 130  since ")
    assert text.endswith("python -m ltsearch.sweep long.yaml --address auto\n")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_cannot_be_is_one_message(laptop: Laptop) -> None:
    write(laptop.folder, study(**{"name": "never"}), "never.yaml")
    write(laptop.folder, study(**{"base.training.epochs": 0}), "wrong.yaml")
    for ran, message in (
        (
            laptop.run("never.yaml", RAY_AUTH_TOKEN="0" * 64),
            "refuses this host's token (~/.ray/auth_token, RAY_AUTH_TOKEN)",
        ),
        (laptop.run("wrong.yaml"), "wrong.yaml: base: training.epochs = 0"),  # found here, nothing is sent
        (
            laptop.verb("attach", "never.yaml"),
            "knows no job of it (it was never sent there, or the head was restarted since)",
        ),
        (laptop.verb("status", "never.yaml"), "never: never run on --storage "),
        (laptop.run("never.yaml", "--set", "resources.cpus_per_worker=3"), "error: resources: one trial needs 3 CPUs"),
    ):
        assert ran[0] == 2 and message in ran[1], ran
        assert ran[1].splitlines()[-1].startswith("error: ") and "Traceback" not in ran[1]
