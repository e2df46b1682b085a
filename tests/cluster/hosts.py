"""Three hosts and a laptop on one machine, for trying a cluster: ``python -m tests.cluster.hosts`` (Linux, root).

Each is a set of Linux namespaces with an address, a host name, an sshd, ``/root``, ``/tmp``, ``/run`` and ``/dev/shm`` of its
own. They share this machine's CPUs, memory and file system, and ``/mnt``, which stands for the folder that a real cluster has
on NFS. Nothing outside of them is changed but ``/run/netns``, and closing takes everything away.

Needs sshd, ssh, rsync and ip (Debian: openssh-server, rsync, iproute2, procps).
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parent.parent.parent
SSHD = "/usr/sbin/sshd"
SHARED = "/mnt"  # in the hosts
LAPTOP = "10.77.0.100"

# PID 1 of a host. `$H` holds its private folders; `$@` are folders to keep visible (environment, checkout).
INIT = r"""
set -eu
H=$1 name=$2 shared=$3; shift 3
mount --make-rprivate /
hostname "$name"
mount -t tmpfs -o size=8g,mode=1777 tmpfs /dev/shm
for visible in "$@"; do
  case $visible in
    /root/*) mkdir -p "$H$visible"; mount --bind "$visible" "$H$visible" ;;
    /tmp/*) mkdir -p "$H$visible"; mount --bind "$visible" "$H$visible" ;;
  esac
done
mount --bind "$shared" /mnt
mount --bind "$H/hosts" /etc/hosts
sed "s/^hosts:.*/hosts: files/" /etc/nsswitch.conf >"$H/nsswitch.conf"
mount --bind "$H/nsswitch.conf" /etc/nsswitch.conf
exec 9<"$H/hostkey"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd; cat <&9 >/run/hostkey; chmod 600 /run/hostkey; exec 9<&-
mount --rbind "$H/root" /root
mount --rbind "$H/tmp" /tmp
cd /
if [ "$name" != laptop ]; then
  /usr/sbin/sshd -D -e -f /dev/null -h /run/hostkey -o UsePAM=no -o PidFile=/run/sshd.pid \
    -o PermitRootLogin=prohibit-password -o StrictModes=no -o MaxSessions=50 -o Subsystem="sftp internal-sftp" &
fi
set +e
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""


def missing() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces with addresses need Linux and root"
    lacking = [name for name in ("ssh", "rsync", "ip", "nsenter", "unshare", "pkill") if shutil.which(name) is None]
    lacking += [] if os.path.exists(SSHD) else ["sshd"]
    return f"not installed: {', '.join(lacking)} (openssh-server, rsync, iproute2, procps)" if lacking else None


class Host:
    """One of them."""

    def __init__(self, name: str, address: str, namespace: str, folder: Path, shared: Path) -> None:
        """Nothing runs yet; the network namespace is there."""
        self.name, self.address, self.namespace, self.folder, self.shared = name, address, namespace, folder, shared
        self._starter: subprocess.Popen[bytes] | None = None
        self.init = 0

    def power_on(self) -> None:
        """Starts PID 1, and sshd on all but the laptop."""
        keep = {os.path.realpath(p) for p in (sys.prefix, sys.base_prefix, ROOT)}
        keep = {p for p in keep if not any(p != q and p.startswith(q + "/") for q in keep)}
        log = open(self.folder / "init.log", "ab")
        self._starter = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "-m", "-u", "-i", "-p", "-f", "--kill-child"]
            + [
                "--mount-proc",
                "bash",
                "-c",
                INIT,
                "init",
                str(self.folder),
                self.name,
                str(self.shared),
                *sorted(keep),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        _ip("-n", self.namespace, "link", "set", "br0" if self.name == "laptop" else "e0", "up")
        if self.name != "laptop":  # taking the link down removed it
            _ip("-n", self.namespace, "route", "replace", "default", "via", LAPTOP)
        deadline = time.monotonic() + 30
        while not self._ready():
            if time.monotonic() > deadline or self._starter.poll() is not None:
                raise RuntimeError(f"{self.name} does not start: {(self.folder / 'init.log').read_text()}")
            time.sleep(0.05)

    def _ready(self) -> bool:
        assert self._starter is not None
        children = Path(f"/proc/{self._starter.pid}/task/{self._starter.pid}/children").read_text().split()
        if not children:
            return False
        self.init = int(children[0])
        try:
            here = os.readlink(f"/proc/{self.init}/cwd") == "/" and Path(f"/proc/{self.init}/root/run/hostkey").exists()
        except OSError:
            return False
        pid_file = Path(f"/proc/{self.init}/root/run/sshd.pid")
        return here and (self.name == "laptop" or pid_file.exists())

    def power_off(self) -> None:
        """As if the plug were pulled: no packet says goodbye."""
        if self.name != "laptop":
            _ip("-n", self.namespace, "link", "set", "e0", "down")
        self.kill()

    def kill(self) -> None:
        """End PID 1, and so every process of the host."""
        if self._starter is not None:
            try:
                if self.init:
                    os.kill(self.init, signal.SIGKILL)
                    # It is the starter's child, which waits for it and ends. Killed together, it would be left to this
                    # machine's PID 1, which in a container may never ask what became of it.
                    self._starter.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
            self._starter.kill()
            self._starter.wait()
            self._starter, self.init = None, 0

    def command(self, words: list[str] | str, folder: str = "/root", env: Mapping[str, str] | None = None) -> list[str]:
        """What to run here so that it runs there, in a shell that has read ``~/.bashrc``."""
        text = words if isinstance(words, str) else shlex.join(words)
        clean = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb", **(env or {})}
        enter = [
            "nsenter",
            "-t",
            str(self.init),
            "-a",
            f"--wd=/proc/{self.init}/root{folder}",
            "env",
            "-i",
            "--default-signal=INT",
        ]
        return [*enter, *(f"{k}={v}" for k, v in clean.items()), "bash", "-lc", f"source ~/.bashrc; {text}"]

    def run(
        self, words: list[str] | str, folder: str = "/root", timeout: float = 120, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it there and wait."""
        return subprocess.run(
            self.command(words, folder, env),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def start(
        self, words: list[str] | str, folder: str = "/root", env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Run it there, and go on here."""
        return subprocess.Popen(
            self.command(words, folder, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def processes(self, word: str = "") -> list[str]:
        """Command lines of its processes that hold the word."""
        try:
            mine = os.readlink(f"/proc/{self.init}/ns/pid")
        except OSError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns" / "pid") == mine:
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
        return [line for line in found if line and word in line]


class Hosts:
    """All of them; a context manager."""

    def __init__(self, count: int = 3) -> None:
        """Nothing runs yet."""
        # Not below /tmp or /root, which every host has of its own.
        self.folder = Path(tempfile.mkdtemp(prefix="ltsearch-hosts-", dir="/var/tmp"))
        self.shared = self.folder / "shared"
        self.name = f"lt{os.getpid()}"
        self.laptop = self._host("laptop", LAPTOP)
        self.hosts = [self._host(f"h{i}", f"10.77.0.{i}") for i in range(1, count + 1)]

    def _host(self, name: str, address: str) -> Host:
        return Host(name, address, f"{self.name}-{name}", self.folder / name, self.shared)

    @property
    def all(self) -> list[Host]:
        """The laptop, then the hosts."""
        return [self.laptop, *self.hosts]

    def __enter__(self) -> Self:
        """Network, folders, keys, PID 1 of each."""
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        self.shared.mkdir()
        key = self.folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        names = "127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in self.all)
        for host in self.all:
            for name in ("tmp", "root/.ssh"):
                (host.folder / name).mkdir(parents=True)
            (host.folder / "tmp").chmod(0o1777)
            (host.folder / "hosts").write_text(names)
            shutil.copy(key, host.folder / "hostkey")
            # As on a host whose environment is ready: its programs are on the path of every shell.
            (host.folder / "root" / ".bashrc").write_text(f"export PATH={sys.prefix}/bin:$PATH\n")
            if host is self.laptop:
                shutil.copy(key, host.folder / "root" / ".ssh" / "id_ed25519")
            else:
                shutil.copy(f"{key}.pub", host.folder / "root" / ".ssh" / "authorized_keys")
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        lap = self.laptop.namespace
        _ip("-n", lap, "link", "add", "br0", "type", "bridge")
        _ip("-n", lap, "addr", "add", f"{LAPTOP}/24", "dev", "br0")
        for host in self.hosts:
            port = f"p-{host.name}"
            _ip("link", "add", "e0", "netns", host.namespace, "type", "veth", "peer", "name", port, "netns", lap)
            _ip("-n", lap, "link", "set", port, "master", "br0", "up")
            _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "e0")
        for host in self.all:
            host.power_on()

    def __exit__(self, *_: object) -> None:
        """Take everything away, however far it came."""
        for host in self.all:
            host.kill()
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def main() -> int:
    """Start them, say how to enter them, and wait for Ctrl-C."""
    why = missing()
    if why:
        print(f"error: {why}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Hosts() as hosts:
        for host in hosts.all:
            shell = shlex.join(host.command("exec bash -i", env={"TERM": os.environ.get("TERM", "dumb")}))
            print(f"{host.name:7} {host.address:12} {shell}", flush=True)
        print(
            f"the key is ~/.ssh/id_ed25519 on the laptop; every host sees {hosts.shared} as {SHARED}; Ctrl-C ends all"
        )
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
