"""The nodes of the cluster that a sweep runs on: what they have, whether they see the storage, and run the same code."""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ltsearch.cluster import ray_internals
from ltsearch.plan.placement import Node
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import PACKAGES
from trainables.errors import UserError
from trainables.files import Location, RemotePath

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # what `ray up` leaves on the head
KUBERAY = "RAY_USAGE_STATS_KUBERAY_IN_USE"  # what KubeRay sets in every pod
REPORT_SECONDS = 10.0  # until KubeRay's autoscaler has reported, if there is one
ANSWER_SECONDS = 300.0  # a node's first task waits until Ray has sent it the tree
OTHERS_SECONDS = 60.0  # for the others, once one has answered


def alive(labels: Mapping[str, str]) -> dict[str, Node]:
    """Resources of every node that is there now and has these labels, by its id."""
    import ray

    there = [node for node in ray.nodes() if node["Alive"] and labels.items() <= node["Labels"].items()]
    return {node["NodeID"]: dict(node["Resources"]) for node in there}


def growable(path: Path = BOOTSTRAP) -> Mapping[str, Any] | None:
    """The configuration of the autoscaling cluster whose head this is; None if it is none, or one of hosts that are there.

    On Kubernetes nobody but KubeRay knows how far it may grow: an empty one, if its autoscaler runs.
    """
    import yaml

    if os.environ.get(KUBERAY) == "1":
        deadline = time.monotonic() + REPORT_SECONDS
        while not (reports := ray_internals.autoscaler_reports()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return {} if reports else None
    try:
        config = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    return config if isinstance(config, dict) and config.get("provider", {}).get("type") != "local" else None


# -- on a node --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terms:
    """What a node must meet to train: nodes that join in mid-sweep were not there to be asked before."""

    marker: Location  # a file that the driver holds in the storage
    versions: Mapping[str, str]

    def meet(self) -> None:
        """Raises ``RuntimeError`` naming this node, if it does not see the storage or has other versions."""
        where = f"node {socket.gethostname()}"
        if not self.marker.exists():
            raise RuntimeError(f"{where} does not see the storage of this sweep ({self.marker}): is it mounted there?")
        try:
            differ(self.versions, {where: versions()})
        except UserError as error:
            raise RuntimeError(str(error)) from None


# -- before anything is started --------------------------------------------------------------------------------------------


def check(store: CellStore) -> dict[str, str]:
    """Ask every node; those that do not answer, by Ray's id, and why: they are left alone.

    Raises ``UserError`` if one does not see the storage or would run other code than this, or if none answers.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    local = None if isinstance(store.root, RemotePath) else store.root
    created = local is not None and not local.exists()
    probe = local / f".ltsearch-{uuid.uuid4().hex[:8]}" if local is not None else None
    scout = ray.remote(num_cpus=0)(Scout)  # an actor, as trials are: a task may run where an actor cannot
    try:
        if probe is not None and local is not None:
            local.mkdir(parents=True, exist_ok=True)
            probe.touch()
        place = (str(probe) if probe else None, store.root if local is None else None)
        sent = {
            node["NodeID"]: scout.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for node in nodes
        }
        asked = {one.look_around.remote(*place): node for node, one in sent.items()}
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in nodes}
        found: dict[str, Any] = {}
        silent: dict[str, str] = {}
        late, end = list(asked), time.monotonic() + ANSWER_SECONDS
        while late and (left := end - time.monotonic()) > 0:
            ready, late = ray.wait(late, timeout=left)
            for answer in ready:
                node = asked[answer]
                try:
                    found[node] = ray.get(answer)
                    end = min(end, time.monotonic() + OTHERS_SECONDS) if len(found) == 1 else end
                except Exception as error:  # Ray raises many kinds; that there is no answer is what matters
                    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
                    silent[node] = f"node {addresses[node]} of the cluster runs no trials ({first[:300]})"
        silent |= {asked[one]: f"node {addresses[asked[one]]} does not answer" for one in late}
        if not found:
            raise UserError(
                f"{next(iter(silent.values()))}{', nor does any other' if len(silent) > 1 else ''}; see `ray status` on the "
                "head, whether it has the same Python and packages, and whether the cluster was started with the same "
                "authentication: with the token in ~/.ray/auth_token (RAY_AUTH_MODE=token), or without (RAY_AUTH_MODE=disabled)"
            )
    finally:
        if probe is not None and local is not None:
            probe.unlink(missing_ok=True)
            if created:
                local.rmdir()
    differ(versions(), {addresses[node]: answer["versions"] for node, answer in found.items()})
    for node, answer in found.items():
        if answer["blind"]:
            raise UserError(
                f"--storage {store.root}: node {addresses[node]} ({answer['host']}) {answer['blind']}; every trial writes its "
                "checkpoints there, and goes on from them on another node: name a folder that all nodes share, or s3://…, with "
                "--storage or LTSEARCH_STORAGE"
            )
    return silent


class Scout:
    """Sent to every node."""

    def look_around(self, probe: str | None, remote: RemotePath | None) -> dict[str, Any]:
        """See the function."""
        return look_around(probe, remote)


def look_around(probe: str | None, remote: RemotePath | None) -> dict[str, Any]:
    """What a node answers: who it is, its versions, and why it cannot use the storage ("" if it can)."""
    blind = ""
    if probe is not None and not Path(probe).exists():
        blind = "does not see that folder"
    elif probe is not None:
        own = Path(f"{probe}-{uuid.uuid4().hex[:8]}")
        try:
            own.touch()
            own.unlink()
        except OSError as error:
            blind = f"cannot write there ({error.strerror})"
    elif remote is not None:
        try:
            CellStore(remote).check_writable()
        except UserError as error:
            blind = f"cannot use it ({error})"
    return {"host": socket.gethostname(), "versions": versions(), "blind": blind}


def versions() -> dict[str, str]:
    """Of the packages that results depend on, and of our own code, by its content."""
    found = {"code": code_hash()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def code_hash() -> str:
    """A hash of the sources of ``ltsearch`` and ``trainables`` as they are imported here."""
    import ltsearch
    import trainables

    digest = hashlib.sha256()
    for package in (ltsearch, trainables):
        home = Path(str(package.__file__)).parent
        for path in sorted(home.rglob("*.py")):
            digest.update(str(path.relative_to(home)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def differ(ours: Mapping[str, str], theirs: Mapping[str, Mapping[str, str]]) -> None:
    """Raises ``UserError`` naming every node and package whose version is not the driver's."""
    odd = [
        f"{address} has {name} {found.get(name, 'none')}"
        for address, found in theirs.items()
        for name in ours
        if found.get(name, "none") != ours[name]
    ]
    if odd:
        here = ", ".join(f"{name} {value}" for name, value in ours.items() if any(f" {name} " in o for o in odd))
        names = {"code": "ltsearch's own code, by its hash"}
        legend = "".join(f" ({key}: {text})" for key, text in names.items() if any(f" {key} " in o for o in odd))
        raise UserError(
            f"the cluster is mixed: the command runs with {here}, but {'; '.join(odd[:6])}{' …' if len(odd) > 6 else ''}"
            f"{legend}; results must not depend on where a trial ran: install the same versions everywhere (`ray up "
            "cluster.yaml` runs the setup commands again)"
        )
