"""A real MLflow server on this machine, as the soak, the tests of faults and the driver's benchmark use it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

SECONDS_TO_START = 180.0  # on a busy machine


class MlflowServer:
    """``mlflow server`` on a SQLite file in a folder; it keeps its port when it is started again."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started yet."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Returns once it answers, or with ``wait`` False at once; raises ``RuntimeError`` if it never does."""
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)
        deadline = time.monotonic() + SECONDS_TO_START
        while wait and not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"no MLflow server at {self.uri} within {SECONDS_TO_START:g} s")
            time.sleep(0.2)

    def answers(self) -> bool:
        """Is it up?"""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """Kill it and its workers; what it was in the middle of is lost, as when a host goes down."""
        if self._process is not None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait(30)
            self._process = None
