"""A Slurm of three nodes and a login node, on the hosts of ``hosts``: ``python -m tests.cluster.slurm_site`` (Linux, root).

slurmctld runs on the laptop, slurmd on the others. Needs Debian's slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import os
import shutil
import time
from types import TracebackType
from typing import Self

from tests.cluster import hosts
from tests.cluster.hosts import LAPTOP, Host, Hosts

ENVIRONMENT = {"SLURM_CONF": "/mnt/slurm.conf"}
CONFIG = f"""
ClusterName=test
SlurmctldHost=laptop({LAPTOP})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=/run/munge/socket
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
SlurmdTimeout=15
SlurmctldTimeout=15
KillWait=30
MinJobAge=10
JobRequeue=1
EnforcePartLimits=ALL
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,requeue_setup_env_fail
PropagateResourceLimits=NONE
"""
MUNGE = (
    "mkdir -p /run/munge /tmp/slurmd /tmp/slurmctld && cp /mnt/munge.key /run/munge/key && chmod 400 /run/munge/key && "
    "munged --force --key-file=/run/munge/key --socket=/run/munge/socket --pid-file=/run/munge/pid "
    "--log-file=/run/munge/log --seed-file=/run/munge/seed"
)


def missing() -> str | None:
    """Why there can be no Slurm here; None if there can."""
    lacking = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if shutil.which(name, path=_PATH) is None]
    return hosts.missing() or (f"not installed: {', '.join(lacking)} (slurmctld, slurmd, munge)" if lacking else None)


_PATH = os.environ.get("PATH", "") + ":/usr/sbin"


class Site:
    """All of it; a context manager. The folder ``work`` is /mnt/work on every node."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self.hosts = Hosts()
        self.login, self.nodes = self.hosts.laptop, self.hosts.hosts
        self.work = self.hosts.shared / "work"

    def __enter__(self) -> Self:
        """Start all daemons, and wait until all nodes are idle."""
        self.hosts.__enter__()
        try:
            key = self.hosts.shared / "munge.key"
            key.write_bytes(os.urandom(128))
            key.chmod(0o400)
            nodes = [f"NodeName={node.name} NodeAddr={node.address} CPUs=2\n" for node in self.nodes]
            names = ",".join(node.name for node in self.nodes)
            parts = f"PartitionName=all Nodes={names} Default=YES MaxTime=01:00:00 State=UP\n"
            (self.hosts.shared / "slurm.conf").write_text(CONFIG + "".join(nodes) + parts)
            self.work.mkdir()
            self._checked(self.login, f"{MUNGE} && slurmctld")
            for node in self.nodes:
                self.boot(node)
            self.wait_for(lambda: self.run("sinfo -h -o '%D %t'").split() == ["3", "idle"], 60, "idle nodes")
        except BaseException:
            self.hosts.__exit__()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take everything away."""
        self.hosts.__exit__()

    def boot(self, node: Host) -> None:
        """Its daemons."""
        self._checked(node, f"{MUNGE} && slurmd -N {node.name}")

    def run(self, command: str, seconds: float = 120) -> str:
        """On the login node, in /mnt/work; what it says, errors included."""
        done = self.login.run(f"{{ {command}; }} 2>&1", "/mnt/work", seconds, ENVIRONMENT)
        return done.stdout

    def wait_for(self, that: object, seconds: float, what: str) -> None:
        """Until ``that()``; raises ``AssertionError`` with what Slurm says."""
        deadline = time.monotonic() + seconds
        while not that():  # type: ignore[operator]
            if time.monotonic() > deadline:
                logs = "\n".join(f"{log}:\n{log.read_text()[-3000:]}" for log in sorted(self.work.rglob("*.log")))
                raise AssertionError(f"no {what} after {seconds:g} s\n{self.run('squeue; sinfo')}\n{logs}")
            time.sleep(0.5)

    def left(self) -> list[str]:
        """Processes of sweeps on the nodes."""
        marks = ("raylet", "gcs_server", "ltsearch", "slurmstepd")
        there = [line for node in self.nodes for line in node.processes() if not line.startswith("bash -c \nset -eu")]
        return [line for line in there if any(mark in line for mark in marks)]

    def _checked(self, host: Host, command: str) -> None:
        done = host.run(command, env=ENVIRONMENT)
        if done.returncode:
            raise RuntimeError(f"{host.name}: {command}: {done.stdout}{done.stderr}")


def main() -> None:
    """Start it, say how to enter it, and wait for Ctrl-C."""
    with Site() as site:
        print(" ".join(site.login.command("cd /mnt/work; exec bash -i", env=ENVIRONMENT)))
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    raise SystemExit(missing() or main())
