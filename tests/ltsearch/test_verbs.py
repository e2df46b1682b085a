"""``ltsearch VERB``: each does what it says, and says one thing where it cannot."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ltsearch import cli, exit_codes
from ltsearch.exit_codes import exit_code
from ltsearch.show import status
from ltsearch.store.cells import CellStore
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import Epoch
from ltsearch.store.retries import StorageError
from ltsearch.sweep import parser
from tests.ltsearch.helpers import ROOT, environment, record, study, write
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == exit_codes.WRONG_INPUT
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Traceback" not in said
    return said


def test_plan_is_the_sweeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, study()))
    assert cli.main(["plan", path, "--seeds", "1"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["sweep", path, "--seeds", "1", "--plan"]) == 0
    assert capsys.readouterr().out == shown and "InterCL" in shown
    assert "no such file" in refused(["plan", "nothing.yaml"], capsys).lower()


def test_options_are_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    """``--fre`` is not ``--fresh``."""
    for words in (["study.yaml", "--fre"], ["study.yaml", "--prof", "tiny"]):
        with pytest.raises(SystemExit) as ended:
            parser().parse_args(words)
        assert ended.value.code == 2 and "unrecognized arguments" in capsys.readouterr().err
        with pytest.raises(SystemExit) as ended:
            cli.main(["sweep", *words])
        assert ended.value.code == 2


def test_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = record(history=[Epoch(epoch=1, metrics={"test/single_top1": 0.25})], error=None)
    CellStore(tmp_path / "store").write(kept)
    for name in (kept.cell, kept.cell[:4]):
        assert cli.main(["show", name]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"cell {kept.cell}: finished") and "epoch 1: test/single_top1 0.25" in shown
        assert "method.name: ncl_pp" in shown
    assert "begins no id" in refused(["show", "f0f0f0f"], capsys)
    assert "an id has 16 digits" in refused(["show", "../../etc"], capsys)
    assert "there is no such cell" in refused(["show", "0" * 16], capsys)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, tmp_path: Path) -> None:
    """The script is one that the shell takes, and knows every verb and option."""
    command = [sys.executable, "-m", "ltsearch", "completion", shell]
    script = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for word in (*cli.PASSED_ON, "status", "stop", "attach", "fetch", "show", "--profile", "--max-concurrent"):
        assert word in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_what_does_not_run_is_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, study()))
    assert "synthetic: never run on --storage" in refused(["stop", path], capsys)
    folder = tmp_path / "store" / "sweeps" / "synthetic"
    folder.mkdir(parents=True)
    # A driver that died without a word, and whose number another process has now: it must not be ended.
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    host = socket.gethostname()
    left = status.SweepStatus(sweep="synthetic", host=host, pid=other.pid, began=0, updated=0, total=1, done=0)
    (folder / status.FILE).write_text(left.model_dump_json())
    (folder / "lock").write_text(f"{other.pid} on {host}")
    assert "synthetic is not running" in refused(["stop", path], capsys) and other.poll() is None
    other.communicate(b"\n", timeout=30)
    with open(folder / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("1 on elsewhere")
        lock.flush()
        assert "runs on elsewhere (process 1); type this there" in refused(["stop", path], capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing is asked for; --trials N, --max-concurrent N or --leave-out ROW"),
        (["--trials", "0"], "--trials 0: at least 1"),
        (["--leave-out", "base + NLF"], "--leave-out 'base + NLF': no such row; did you mean 'base + NFL'"),
        (["--trials", "9"], "; its command takes --set search.trials=N and --max-concurrent N"),
    ],
)
def test_what_cannot_be_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    path = str(write(tmp_path, study()))
    assert says in refused(["change", path, *words], capsys)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_running_sweep_is_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """More trials, fewer at once, a row less; the next run of the command follows the study's file again."""
    tree = study(**{"seeds": 2, "search.trials": 2, "search.confirm": None, "base.synthetic": {"epoch_seconds": 1.0}})
    path = str(write(tmp_path, tree))
    env, command = environment(tmp_path), [sys.executable, "-m", "ltsearch", "sweep", path, "--local"]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 200
        while not any(trial.epoch for trial in running(tmp_path)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        # At once, without a new process: on a busy machine the sweep is over before one has started.
        words = ["--trials", "3", "--max-concurrent", "1", "--leave-out", "base + NFL"]
        assert cli.main(["change", path, *words]) == 0 and "synthetic: asked" in capsys.readouterr().out
        assert process.wait(400) == exit_codes.DONE, (tmp_path / "output").read_text()
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "output").read_text()
    for what in ("3 trials instead of 2", "1 trials at once"):
        assert f"as asked: {what}" in said, said
    not_begun = re.search(r"as asked: row 'base \+ NFL' is left out \((\d) cells", said)
    assert not_begun, said
    store = CellStore(tmp_path / "store")
    found = [store.read(cell) for cell in store.cells()]
    held_out = [record for record in found if record is not None and record.config["data"]["val_per_class"]]
    left = [r for r in found if r is not None and r.config["method"].get("nfl") and r not in held_out]
    assert len(held_out) == 3 and len(left) == 2 - int(not_begun[1]) < 2
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert again.returncode == exit_codes.DONE and "nothing left" in again.stdout, again.stdout + again.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """From another shell; what it was at goes on with the same command."""
    path = str(write(tmp_path, study(**{"search": None, "seeds": 1, "base.synthetic": {"epoch_seconds": 1.5}})))
    env, command = environment(tmp_path), [sys.executable, "-m", "ltsearch", "sweep", path, "--local"]
    first = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline = time.monotonic() + 200
        while not any(trial.epoch for trial in running(tmp_path)):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        words = [sys.executable, "-m", "ltsearch", "stop", path, "--local"]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150)
        assert done.stdout == "synthetic: stopped; the same command goes on\n", done.stdout + done.stderr
        with SweepLock(tmp_path / "store" / "sweeps" / "synthetic"):  # it has let go
            pass
        said, _ = first.communicate(timeout=60)
        assert first.returncode == exit_codes.INTERRUPTED and "nothing finished is lost" in said
    finally:
        if first.poll() is None:
            os.kill(first.pid, signal.SIGKILL)
        first.wait()
    again = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert again.returncode == exit_codes.DONE, again.stdout + again.stderr


def running(folder: Path) -> list[status.RunningTrial]:
    now = status.read(folder / "store" / "sweeps" / "synthetic")
    return now.running if now is not None else []


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (None, exit_codes.DONE, ""),
        (UserError("x: no"), exit_codes.WRONG_INPUT, "error: x: no\n"),
        (StorageError(28, "full"), exit_codes.STORAGE, "make room"),
        (OSError(28, "No space left on device"), exit_codes.STORAGE, "make room"),
        (PermissionError(13, "Permission denied", "/f"), exit_codes.WRONG_INPUT, "/f: Permission denied"),
        (KeyboardInterrupt(), exit_codes.INTERRUPTED, "the same command goes on"),
        (RuntimeError("a fault"), exit_codes.FAULT, "Traceback"),
    ],
)
def test_what_was_raised_has_one_code(
    raised: BaseException | None, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> int:
        if raised is not None:
            raise raised
        return exit_codes.DONE

    assert exit_code(work) == code and said in capsys.readouterr().err
