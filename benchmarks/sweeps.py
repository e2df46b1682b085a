"""Runs the real command in a folder of its own, and ends every process that it leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ltsearch.store.records import CellRecord

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep. Times are seconds since 1970."""

    records: list[CellRecord]  # in the order in which they ended
    began: float
    ended: float


@dataclass(frozen=True)
class Place:
    """A folder with a study in it, and all that its sweeps make."""

    folder: Path
    timeout: float

    def type(self, *words: str) -> str:
        """``python -m ltsearch.sweep study.yaml`` with these words; what it wrote. Raises ``RuntimeError`` if it fails."""
        command = [sys.executable, "-m", "ltsearch.sweep", "study.yaml", *words]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "RAY_TMPDIR": str(self.folder / "ray"),
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=self.timeout, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
        return done.stdout

    def records(self) -> list[CellRecord]:
        """In the order in which they ended."""
        files = self.folder.glob("store/cells/*/record.json")
        records = [CellRecord.model_validate_json(file.read_bytes()) for file in files]
        return sorted(records, key=lambda record: record.ended or 0.0)


@contextmanager
def place(study: Mapping[str, Any], timeout: float = 900) -> Iterator[Place]:
    """A folder of its own, which goes, with every process that was started there."""
    folder = Path(tempfile.mkdtemp(prefix="ltb-"))  # short: Ray puts sockets into it, whose paths are limited
    try:
        (folder / "study.yaml").write_text(yaml.safe_dump(dict(study), sort_keys=False), encoding="utf-8")
        yield Place(folder, timeout)
    finally:
        _end_processes_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def sweep(study: Mapping[str, Any], *words: str, timeout: float = 900) -> Iterator[Sweep]:
    """A whole sweep; raises ``RuntimeError`` with what it wrote if it fails."""
    with place(study, timeout) as there:
        began = time.time()
        there.type(*words)
        ended = time.time()
        yield Sweep(there.records(), began, ended)


def _end_processes_of(folder: Path) -> None:
    """Ray names its session folder on the command line of everything it starts."""
    for force in (signal.SIGTERM, signal.SIGKILL):
        left = _processes_of(folder)
        for pid in left:
            try:
                os.kill(pid, force)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + 5
        while left and _processes_of(folder) and time.monotonic() < deadline:
            time.sleep(0.1)


def _processes_of(folder: Path) -> Sequence[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            mine = str(folder).encode() in status.read_bytes()
        except OSError:
            continue
        if mine and int(status.parent.name) != os.getpid():
            found.append(int(status.parent.name))
    return found
