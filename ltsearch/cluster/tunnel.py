"""The way to a cluster's job API: its dashboard listens on the head's loopback only, so through ssh, with the head's token."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from ltsearch.cluster.ray_cluster import Cluster, use_token
from trainables.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONTACT_SECONDS = 30.0
OURS = "this host's token (~/.ray/auth_token, RAY_AUTH_TOKEN)"
PORT = 8265  # of the dashboard
MARK = "@ltsearch"  # a line after which it is we who speak: before it, login shells and Ray do
# In a process of its own, which ends with ours: Ray's own way to the head, whatever provider and container that has.
OPEN = f"""import os, sys, threading
threading.Thread(target=lambda: (os.read(int(sys.argv[4]), 1), os.killpg(0, 15)), daemon=True).start()
from ray.autoscaler.sdk import run_on_cluster
run_on_cluster(sys.argv[1], cmd=sys.argv[3], port_forward=[(int(sys.argv[2]), {PORT})])"""
# The token where Ray looks for it; the laptop needs none of its own.
KEPT = '"${RAY_AUTH_TOKEN:-$(cat "${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}" 2> /dev/null)}"'
TOKEN = f"echo {MARK} {KEPT}; exec sleep infinity"


class Unreachable(Exception):
    """No way to the job API, for now."""


class Head:
    """A cluster's job API, with a tunnel to it that is opened when it is needed, and anew when it broke."""

    def __init__(self, cluster: Cluster) -> None:
        """Nothing is sent yet."""
        self.cluster = cluster
        self._ssh: subprocess.Popen[bytes] | None = None
        self._alive = -1
        self._through = False  # does ssh reach the head?
        self._client: JobSubmissionClient | None = None

    def __enter__(self) -> Self:
        """Connects; raises ``UserError`` if it does not answer, or not to us."""
        try:
            self.client()
        except (ConnectionError, OSError) as error:
            said = self._unreachable(str(error).rstrip("."))
            self.__exit__()
            raise said from None
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the tunnel."""
        if self._ssh is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._ssh.pid, signal.SIGTERM)
            self._ssh.wait()
            os.close(self._alive)
            assert self._ssh.stdout is not None
            self._ssh.stdout.close()
        self._ssh = self._client = None

    def client(self) -> JobSubmissionClient:
        """Ray's client. Raises ``ConnectionError`` if there is no way, ``UserError`` if the token is refused."""
        if self._client is None or (self._ssh is not None and self._ssh.poll() is not None):
            self.__exit__()
            self._client = self._connect()
        return self._client

    def ask(self, what: Callable[[JobSubmissionClient], Any]) -> Any:
        """Call Ray's client. Raises ``Unreachable`` if the way there breaks, ``UserError`` with the server's words."""
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return what(self.client())
        except UserError:
            raise
        except AuthenticationError:
            raise self._refused() from None
        except (requests.exceptions.RequestException, ConnectionError) as error:
            raise Unreachable(str(error)) from None
        except (RuntimeError, ValueError) as error:
            said = [line for line in str(error).strip().splitlines() if line.strip()] or ["without a word"]
            gone = "does not exist" in said[-1]
            raise UserError(
                f"cluster {self.cluster.name}: its job API says: {said[-1][:300]}"
                + ("; was its head restarted? Nothing finished is lost, the sweep's command goes on" if gone else "")
            ) from None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """A way that breaks in here is told, as a ``UserError``."""
        try:
            yield
        except Unreachable:
            raise UserError(
                f"cluster {self.cluster.name}: the connection to {self.cluster.head} broke; what runs there goes on. Type the "
                "command again"
            ) from None

    def _connect(self) -> JobSubmissionClient:
        url, headers = self.cluster.url, {}
        if url is None:
            self._through = False
            port, token = self._tunnel()
            self._through = True
            url = f"http://127.0.0.1:{port}"
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            for name in ("NO_PROXY", "no_proxy"):  # the token is no proxy's business
                known = os.environ.get(name, "").split(",")
                os.environ[name] = ",".join(filter(None, dict.fromkeys([*known, "127.0.0.1"])))
        else:
            use_token()  # before Ray is imported, which reads it then
        os.environ["RAY_API_SERVER_ADDRESS"] = url  # it, or RAY_ADDRESS, would win over what the client is told
        import requests
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for chatty in ("dashboard_sdk", "job.sdk"):  # what they upload is no news
            logging.getLogger(f"ray.dashboard.modules.{chatty}").setLevel(logging.WARNING)
        try:
            return JobSubmissionClient(url, headers=headers)
        except AuthenticationError:
            raise self._refused() from None
        except (requests.exceptions.RequestException, RuntimeError, ValueError, LookupError, TypeError) as error:
            raise ConnectionError((str(error).strip().splitlines() or [type(error).__name__])[0]) from None

    def _refused(self) -> UserError:
        own = self.cluster.url is None
        return UserError(
            f"the Ray cluster at {self.cluster.head} refuses "
            f"{'its own token' if own else OURS}; "
            "start Ray there again, so that the head's file and what runs are the same, or copy the head's token"
        )

    def _tunnel(self) -> tuple[int, str]:
        """A port of this machine that leads to the dashboard, and the head's token."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        began = time.monotonic()
        ends, self._alive = os.pipe()  # closed with this process, however that ends
        self._ssh = subprocess.Popen(  # in a session of its own, so that Ctrl-C reaches only us
            [sys.executable, "-c", OPEN, str(self.cluster.file), str(port), TOKEN, str(ends)],
            pass_fds=[ends],
            env={**os.environ, "PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(ends)
        assert self._ssh.stdout is not None
        late = threading.Timer(CONTACT_SECONDS, lambda pid=self._ssh.pid: os.killpg(pid, signal.SIGTERM))
        late.start()
        said = ""
        try:
            for raw in self._ssh.stdout:
                line = raw.decode(errors="replace").strip()  # \r: from the terminal that ssh makes
                if line.startswith(f"{MARK} ") or line == MARK:
                    return port, line.removeprefix(MARK).strip()
                said += line + "\n"
        finally:
            late.cancel()
        raise ConnectionError(_reason(said, time.monotonic() - began))

    def _unreachable(self, reason: str) -> UserError:
        file, name = self.cluster.file, self.cluster.name
        if self.cluster.url is not None:
            return UserError(
                f"--cluster {self.cluster.url}: no job API of a Ray cluster answers there ({reason}); it is the address of the "
                f"head's dashboard, port {PORT} unless told otherwise. Nothing was started"
            )
        if self._through:
            return UserError(
                f"cluster {name} ({file}): its head {self.cluster.head} is there, but its dashboard does not answer "
                f"on its port {PORT}; what runs there goes on. `ray up {file}` starts Ray again, and ends what runs (nothing "
                "finished is lost)"
            )
        return UserError(
            f"cluster {name} ({file}): its head {self.cluster.head} does not answer ({reason}); start "
            f"the host and `ray up {file}`, or use --local to run on this machine. Nothing was started"
        )


def _reason(said: str, seconds: float) -> str:
    """What ssh, a shell or Python said, without what Ray says around it."""
    telling = r"ssh: |Permission denied|: (command )?not found|No such file|Error: (?!Command failed)"
    found = [line.strip() for line in said.splitlines() if re.search(telling, line) and "Running `" not in line]
    return found[0].rstrip(".")[:300] if found else f"no answer in {seconds:.0f} s"
