"""Where a sweep runs: on this machine, on the Ray cluster that this host is in, or on the one that ``ray up`` started.

Nothing here imports Ray before it is sure that a cluster is to be joined.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from ltsearch.cluster import ray_internals
from ltsearch.plan.placement import this_machine
from trainables.errors import UserError

DEFAULT_FILE = Path("cluster.yaml")
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # `ray up` leaves it on the head
PORT = 6379
ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Cluster:
    """One that ``ray up`` started from here, or whose dashboard is reached as it is."""

    name: str
    file: Path
    head: str
    url: str | None = None  # of the dashboard; none: through ssh, as the file says


# -- from a laptop -----------------------------------------------------------------------------------------------------


def elsewhere(said: str | None, address: str | None, local: bool) -> Cluster | None:
    """The cluster that a command typed here is to run on; None if it is to run where it was typed.

    Raises ``UserError`` for a cluster that is asked for and not up.
    """
    if said is not None and (address or local):
        raise UserError(f"--cluster {said} and {'--local' if local else '--address'} exclude each other; leave one out")
    if local or address or (said is None and head_address() is not None):
        return None
    if said is not None and "://" in said:
        return _dashboard(said)
    cluster = started(Path(said) if said is not None else DEFAULT_FILE, asked=said is not None)
    if said is not None and cluster is None:
        raise UserError(f"--cluster {said}: not up; start it with `ray up {said}`, or leave --cluster out to run here")
    return cluster


def _dashboard(url: str) -> Cluster:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise UserError(
            f"--cluster {url}: the file of `ray up`, or the address of a dashboard, such as http://127.0.0.1:8265; a token is "
            "not part of it (~/.ray/auth_token, RAY_AUTH_TOKEN)"
        )
    return Cluster(parts.netloc, Path(), parts.hostname, url.rstrip("/"))


def started(file: Path, *, asked: bool) -> Cluster | None:
    """The cluster of a file, if it is up as far as this machine knows; ``UserError`` only if it was ``asked`` for.

    A file that nobody asked for may be broken, of another user or of another tool: that is told and ends nothing.
    """
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        name, provider = str(tree["cluster_name"]), tree["provider"]
        if provider["type"] == "local" and "head_ip" in provider:
            head = _local_head(name, str(provider["head_ip"]))
            return Cluster(name, file, str(provider.get("external_head_ip", head))) if head else None
    except FileNotFoundError:
        if asked:
            raise UserError(f"--cluster {file}: no such file") from None
        return None
    except Exception as error:  # YAML's, and whatever a tree of another shape raises
        why = f"not the file of a Ray cluster ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        if asked:
            raise UserError(f"--cluster {file}: {why}") from None
        print(f"{file}: {why}; it is left alone, and this runs here", file=sys.stderr)
        return None
    return _cloud(name, file, asked)


def _local_head(name: str, head: str) -> str | None:
    """For hosts of one's own, `ray up` and `ray down` note in a file what is up."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # as Ray looks for it
    try:
        node: Any = json.loads((Path(folder) / "ray" / f"cluster-{name}.state").read_text())[head]
        up = node["state"] == "running" and node["tags"]["ray-node-status"] == "up-to-date"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return head if up else None


def _cloud(name: str, file: Path, asked: bool) -> Cluster | None:
    import contextlib
    import io

    try:
        from ray.autoscaler.sdk import get_head_node_ip

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return Cluster(name, file, str(get_head_node_ip(str(file))))
    except RuntimeError:  # not found
        return None
    except (Exception, SystemExit) as error:  # what a cloud's library raises, and Ray's own way out of a bad file
        if asked:
            raise UserError(f"--cluster {file}: cannot ask the provider for its head ({error})") from None
        return None


# -- on a host of a cluster ----------------------------------------------------------------------------------------------


def head_address() -> str | None:
    """``RAY_ADDRESS``, or the cluster whose head this host is; None on any other machine."""
    if told := _told():
        return told
    if not os.path.exists(BOOTSTRAP.expanduser()):  # which takes what this user may not look at for absent
        return None
    found = _current()
    return found if found and _reason(found) is None else None


def join(address: str) -> tuple[str, str]:
    """Look whether the cluster lets us in, before Ray does: it would try for a minute, or end the process.

    Returns:
        The address as ``host:port``, and the line that says where the sweep runs.

    Raises:
        UserError: Nothing answers there, or it does not know our token.
    """
    where, nodes = look(address)
    cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
    count = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''} ({cpus:g} CPUs, {gpus:g} GPUs)"
    return where, f"runs on {_name()}, head {where.rpartition(':')[0]}, {count}"


def look(address: str) -> tuple[str, list[dict[str, float]]]:
    """The cluster's address as ``host:port`` and what its living nodes have, asked without joining it; raises ``UserError``."""
    if "://" in address:
        raise UserError(
            f"--address {address}: Ray Client addresses do not work here; run the command on the cluster's head with "
            "--address auto, or name the head's host:6379"
        )
    where = address
    if address == "auto":
        found = _told() or _current() or (f"127.0.0.1:{PORT}" if BOOTSTRAP.expanduser().exists() else None)
        if found is None:
            raise UserError(
                "--address auto: no Ray cluster runs on this host; start one with `ray up cluster.yaml`, name another's "
                "host:6379, or leave --address out to run on this machine"
            )
        where = found
    where = where if ":" in where else f"{where}:{PORT}"
    reason = _reason(where)
    if reason is not None:
        raise UserError(
            f"--address {address}: no Ray cluster answers at {where} ({reason}); start one with `ray up cluster.yaml`, or "
            "use --local to run on this machine"
        )
    return where, _nodes(where)


def here() -> str:
    """The line that says so for this machine."""
    (machine,) = this_machine()
    return f"runs on this machine ({machine['CPU']:g} CPUs, {machine['GPU']:g} GPUs)"


def use_token() -> None:
    """Ray starts clusters with the token in ``~/.ray/auth_token``, but does not use it by itself to join one."""
    if "RAY_AUTH_MODE" not in os.environ and (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def _told() -> str | None:
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address not in ("", "auto", "local") and "://" not in address else None


def _current() -> str | None:
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    try:
        return (Path(folder) / "ray" / "ray_current_cluster").read_text().strip() or None
    except OSError:
        return None


def _name() -> str:
    try:
        return f"cluster {json.loads(BOOTSTRAP.expanduser().read_text())['cluster_name']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a Ray cluster"


def _reason(address: str) -> str | None:
    """Why nothing can be reached there; None if something listens."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), ANSWER_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)


def _nodes(address: str) -> list[dict[str, float]]:
    """What the living nodes have; raises ``UserError`` if we are not let in."""
    use_token()
    refused = (
        f"the Ray cluster at {address} refuses this host's token (~/.ray/auth_token, or RAY_AUTH_TOKEN); give it the "
        "cluster's: copy the file from the head, or run `ray up cluster.yaml` again, which takes it to every host"
    )
    from ray.exceptions import AuthenticationError, RayError

    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "token" and not ray_internals.has_token():
        raise UserError(refused.replace("refuses this host's token", "asks for a token, and this host has none"))
    try:
        with _silent():
            return ray_internals.nodes_without_joining(address, ANSWER_SECONDS)
    except AuthenticationError:
        raise UserError(refused) from None
    except RayError as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--address {address}: what listens there is no Ray cluster, or of another version ({first})"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ part writes warnings straight to standard error."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
