"""On a cluster's head: a sweep that goes on when whoever started it goes away. ``ltsearch.remote`` calls this over ssh.

``~/ltsearch/jobs/<sweep>/`` holds what was asked (``job.json``), what was said (``log``), the driver's process (``pid``) and
how it ended (``exit``). A lock tells whether it is alive: the kernel drops it with its holder, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME = Path.home() / "ltsearch"
KEEP_SECONDS = 86400.0
MARK = "@ltsearch "  # in front of an answer, to tell it from what a login shell says
END = f"{MARK}end"


def job_folder(job: str) -> Path:
    """Of one sweep."""
    return HOME / "jobs" / job


def start(job: str, words: list[str]) -> dict[str, Any]:
    """Start ``python -m ltsearch.sweep WORDS`` in this tree, unless the sweep runs already; says which."""
    folder = job_folder(job)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what was typed may be private
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    if not _take(lock):
        return state(job)
    if (folder / "log").exists():
        (folder / "log").replace(folder / "log.before")
    for name in ("exit", "pid"):
        (folder / name).unlink(missing_ok=True)
    tree = Path.cwd()
    (folder / "job.json").write_text(json.dumps({"words": words, "tree": str(tree)}))
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    subprocess.Popen(  # it inherits the lock, and so holds it
        [sys.executable, "-m", "ltsearch.cluster.detached", "supervise", job],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=[lock],
    )
    link = HOME / "tree.new"
    link.unlink(missing_ok=True)
    link.symlink_to(tree)
    link.replace(HOME / "tree")
    _forget_trees(tree)
    return {**state(job), "state": "started"}


def supervise(job: str) -> None:
    """Run the sweep and write down how it ended."""
    folder = job_folder(job)
    words = json.loads((folder / "job.json").read_text())["words"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # whoever started us may ignore it, and the sweep is to be stopped by it
    driver = subprocess.Popen([sys.executable, "-m", "ltsearch.sweep", *words], env=environment)
    (folder / "pid").write_text(str(driver.pid))
    code = driver.wait()
    (folder / "exit.new").write_text(str(code))
    (folder / "exit.new").replace(folder / "exit")


def state(job: str) -> dict[str, Any]:
    """``none``, ``running``, ``ended`` (with its exit code) or ``gone`` (the head went down under it)."""
    folder = job_folder(job)
    try:
        found: dict[str, Any] = json.loads((folder / "job.json").read_text())
    except (OSError, ValueError):
        return {"state": "none"}
    if running(job):
        return {**found, "state": "running"}
    try:
        return {**found, "state": "ended", "exit": int((folder / "exit").read_text())}
    except (OSError, ValueError):
        return {**found, "state": "gone"}


def running(job: str) -> bool:
    """Is its lock held?"""
    try:
        lock = os.open(job_folder(job) / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def follow(job: str, offset: int) -> None:
    """Write the log from a byte on to standard output until the sweep has ended.

    In front of every line stands the byte to go on at when the connection breaks after it.
    """
    out = sys.stdout.buffer
    with open(job_folder(job) / "log", "rb") as log:
        log.seek(offset)
        rest = b""
        while True:
            alive = running(job)  # asked before reading: what it wrote last is then read too
            *lines, rest = (rest + log.read()).split(b"\n")
            for line in [*lines, rest] if rest and not alive else lines:
                offset += len(line) + 1
                out.write(f"{MARK}{offset} ".encode() + line + b"\n")
            out.flush()
            if not alive:
                break
            time.sleep(0.2)
    print(END, flush=True)


def stop(job: str) -> dict[str, Any]:
    """As Ctrl-C does: what finished is kept."""
    if running(job):
        try:
            os.kill(int((job_folder(job) / "pid").read_text()), signal.SIGINT)
        except (OSError, ValueError):
            pass
        deadline = time.monotonic() + 60
        while running(job) and time.monotonic() < deadline:
            time.sleep(0.2)
    return state(job)


def _take(lock: int) -> bool:
    for _ in range(10):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:  # running, or somebody is just asking whether it is
            time.sleep(0.05)
    return False


def _working_folders() -> Iterator[Path]:
    """Trees that are the working directory of some process."""
    trees = HOME / "trees"
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            folder = link.resolve(strict=True)
        except OSError:
            continue
        if folder.is_relative_to(trees) and folder != trees:
            yield trees / folder.relative_to(trees).parts[0]


def _forget_trees(current: Path) -> None:
    """Trees that no running sweep came from and no process works in; not today's: another start may be under way."""
    used = {str(current), *(str(path) for path in _working_folders())}
    for job in (HOME / "jobs").iterdir():
        if running(job.name):
            used.add(str(state(job.name).get("tree")))
    for tree in (HOME / "trees").iterdir():
        if str(tree) not in used and time.time() - tree.stat().st_mtime > KEEP_SECONDS:
            shutil.rmtree(tree, ignore_errors=True)


def main(argv: list[str]) -> int:
    """``start JOB WORDS…``, ``supervise JOB``, ``state JOB``, ``follow JOB OFFSET``, ``stop JOB``."""
    verb, job, *rest = argv
    if verb == "supervise":
        supervise(job)
    elif verb == "follow":
        follow(job, int(rest[0]))
    else:
        answer = start(job, rest) if verb == "start" else stop(job) if verb == "stop" else state(job)
        print(MARK + json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
