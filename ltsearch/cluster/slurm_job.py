"""What runs in a job of Slurm: ``run JOB.json`` in its first process, ``node …`` on every node of an allocation.

A job stays to itself: its Ray has a folder, ports and a token of its own, CPUs and GPUs as Slurm granted them, and its
processes are ended by their numbers. Shortly before the job's time is over, by the clock and not by a signal, the next job is
submitted, to begin when this one has ended, and the sweep is ended as by Ctrl-C.

In a container runs what trains (the sweep, and Ray on every node); what calls Slurm's commands stays outside.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ltsearch.cluster import ray_cluster
from ltsearch.cluster.slurm import STOP_SIGNAL, JobFile, slurm
from trainables.errors import UserError
from trainables.time_limit import ENDS_AT

INTERRUPTED = 130  # a sweep's exit code after SIGTERM; `exit_codes` comes after this room
ASKED = 5  # times that Slurm is asked for something
LIMIT_SECONDS = 5.0  # so shortly before the limit, and after, SIGTERM is Slurm's own
START_SECONDS = 120.0  # until Ray's head must answer
CONNECT_SECONDS = 5.0  # until a port of the head must answer
JOIN_SECONDS = 60.0  # until the nodes of an allocation must have joined
# Slurm kills what is left of a cancelled job after 30 s, if the site has its default (KillWait).
HURRY_SECONDS = 10.0  # until the sweep is killed that Slurm has told to end
END_SECONDS = 8.0  # until Ray is killed that was told to end
REMOVE_SECONDS = 5.0  # until a folder that cannot be removed is left


def main(argv: Sequence[str]) -> int:
    """The command; the sweep's exit code."""
    match argv:
        case ["run", file, *restarts]:
            return run(JobFile(**json.loads(Path(file).read_text())), int(restarts[0]) if restarts else 0)
        case ["node", address, *head]:
            return node(address, head=bool(head))
    raise SystemExit("python -m ltsearch.cluster.slurm_job run JOB.json [RESTARTS] | node ADDRESS [head]")


def run(job: JobFile, restarts: int) -> int:
    """Run the sweep, or a part of it, within this job's time; ``restarts`` jobs came before because of time."""
    left = seconds_left()
    limit = time.monotonic() + left if left is not None else float("inf")
    deadline = limit - job.margin_seconds
    if left is not None and left <= job.margin_seconds:
        print(
            f"the job has {left:.0f} s, and margin_minutes asks for {job.margin_seconds:.0f}: nothing is begun",
            flush=True,
        )
        return 1
    wanted = Stop()
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if left is not None:
        os.environ[ENDS_AT] = str(time.time() + left - job.margin_seconds)  # trials write checkpoints before
    with private_folder(), workplace(job) as where:
        driver = subprocess.Popen([*job.command, "-m", *_words(job, restarts), *where], start_new_session=True)
        print(f"job {os.environ['SLURM_JOB_ID']} on {socket.gethostname()}: process {driver.pid}", flush=True)
        told, following = False, None
        while driver.poll() is None:
            # At the limit Slurm sends the same signal.
            stopped = wanted.asked and time.monotonic() < limit - LIMIT_SECONDS
            if (time.monotonic() > deadline or wanted.asked) and not told:
                print("asked to stop" if stopped else "the job's time is nearly over", flush=True)
                if not stopped:  # first, since Slurm may end this one before it has ended
                    following = follow(job, restarts)
                driver.send_signal(signal.SIGTERM)
                told = True
            if wanted.hurry_since is not None and time.monotonic() - wanted.hurry_since > HURRY_SECONDS:
                os.killpg(
                    driver.pid, signal.SIGKILL
                )  # what is finished is safe, and the rest of this job's time is short
            if stopped and following is not None:
                not_needed(following, "asked to stop")
                following = None
            time.sleep(0.2)
    code = driver.returncode
    if following is not None and code >= 0 and code != INTERRUPTED:
        not_needed(following, "the sweep has ended")
    return code if code >= 0 else 128 - code


class Stop:
    """Was the job told to end?

    By SIGUSR1 (``ltsearch stop``), which only this process gets, it takes the time that it needs. By SIGTERM (``scancel``, and
    Slurm at the limit) all processes of the job are told, Ray's too, and those that are left after ``KillWait`` are killed.
    """

    def __init__(self) -> None:
        """Listen."""
        self.asked = False
        self.hurry_since: float | None = None
        signal.signal(STOP_SIGNAL, self._ask)
        signal.signal(signal.SIGTERM, self._hurry)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def _hurry(self, *_: object) -> None:
        self.asked = True
        self.hurry_since = self.hurry_since or time.monotonic()


def _words(job: JobFile, restarts: int) -> list[str]:
    """The module and its words; all but the first job of an array join."""
    if os.environ.get("SLURM_ARRAY_TASK_ID", "0") != "0":
        return ["ltsearch", "join", *job.join]
    return [
        "ltsearch.sweep",
        *(job.again if restarts or int(os.environ.get("SLURM_RESTART_COUNT", "0")) else job.sweep),
    ]


def follow(job: JobFile, restarts: int) -> str | None:
    """Submit the next job, of the same place in the array, which waits for this one's end; returns its number."""
    if restarts >= job.restarts:
        print(
            f"restarts = {job.restarts} is used up: no other job follows; `ltsearch sweep` with --slurm goes on",
            flush=True,
        )
        return None
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    where = [f"--array={task}"] if task is not None else []
    after = f"--dependency=afterany:{_number()}"
    number = None
    for attempt in range(ASKED):
        time.sleep(2.0 * attempt)
        if attempt and (number := _follows()) is not None:
            break
        done = slurm(["sbatch", "--parsable", after, *where, job.script, str(restarts + 1)])
        if done.returncode == 0:
            number = done.stdout.strip().split(";")[0]
            break
    if (number := number or _follows()) is None:
        print(f"no job follows: {done.stderr}", flush=True)
        return None
    print(f"followed by job {number}", flush=True)
    return number


def _follows() -> str | None:
    """The job that waits for this one's end, if there is one: Slurm may have taken it, and said that it has not."""
    for line in slurm(["squeue", "--noheader", "--me", "--format=%i %E"]).stdout.splitlines():
        number, _, waits = line.strip().partition(" ")
        if re.search(rf"afterany:{_number()}\b", waits):
            return number.partition("_")[0]  # of an array, as sbatch says it
    return None


def not_needed(number: str, why: str) -> None:
    """Take the next job back."""
    slurm(["scancel", number])
    print(f"job {number} is not needed: {why}", flush=True)


def seconds_left() -> float | None:
    """Until Slurm ends this job; None without a limit. Raises ``SystemExit`` if Slurm does not tell."""
    for attempt in range(ASKED):
        time.sleep(2.0 * attempt)
        done = slurm(["squeue", "--noheader", "--format=%L", f"--jobs={_number()}"])
        if done.returncode == 0 and done.stdout.strip():
            break
    else:
        if (end := os.environ.get("SLURM_JOB_END_TIME", "")).isdigit():
            return float(end) - time.time()
        raise SystemExit(f"Slurm does not tell how much time this job has: {done.stderr.strip()}")
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", done.stdout.strip())
    if found is None:  # UNLIMITED
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _number() -> str:
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}" if task is not None else os.environ["SLURM_JOB_ID"]


@contextmanager
def private_folder() -> Iterator[Path]:
    """Ray's folder on this node, of this job alone; its path is short, since sockets lie in it.

    Raises ``SystemExit`` if somebody else has made it.
    """
    folder = Path(f"/tmp/lts-{os.environ['SLURM_JOB_ID']}")
    shutil.rmtree(folder, ignore_errors=True)  # of this job before its node was lost
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise SystemExit(
            f"{folder} on {socket.gethostname()} belongs to somebody else: this job cannot run there"
        ) from None
    os.environ["RAY_TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + REMOVE_SECONDS
        while folder.exists() and time.monotonic() < deadline:  # what Ray started may write its last lines
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.1)


@contextmanager
def workplace(job: JobFile) -> Iterator[list[str]]:
    """Words that tell the sweep where to run: on this node, or on a Ray cluster over the nodes of the allocation."""
    if job.mode == "array":
        yield [] if os.environ.get("SLURM_ARRAY_TASK_ID", "0") != "0" else ["--local"]
        return
    names = slurm(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).stdout.split()
    others = [name for name in names if name != os.environ.get("SLURMD_NODENAME", names[0])]
    address = f"{_own_address(others)}:{_free_port()}"
    command = [*job.command, "-m", "ltsearch.cluster.slurm_job", "node", address]
    processes = [subprocess.Popen([*command, "head"], start_new_session=True)]
    try:
        _wait(address, processes[0])
        # A step each: the loss of one node ends no other's.
        shell = f"{job.setup}\nexec {shlex.join(command)}"
        cpus = os.environ.get("SLURM_CPUS_PER_TASK", "1")
        for name in others:
            step = [
                "srun",
                "--overlap",
                "--export=ALL",
                "--nodes=1",
                "--ntasks=1",
                f"--nodelist={name}",
                f"--cpus-per-task={cpus}",
            ]
            processes.append(subprocess.Popen([*step, "bash", "-c", shell], start_new_session=True))
        _gather(address, len(names))
        yield ["--address", address]
    finally:
        # srun would kill its step: told by Slurm, Ray ends in order on the other nodes, and its folders go.
        if len(processes) > 1:
            slurm(["scancel", "--signal=TERM", os.environ["SLURM_JOB_ID"]])
        processes[0].terminate()
        end = time.monotonic() + END_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def node(address: str, *, head: bool) -> int:
    """Ray on this node, until it is told to end; raises nothing: what is wrong is in its output."""
    host, _, port = address.rpartition(":")
    listed = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
    words = [
        f"--num-cpus={os.environ.get('SLURM_CPUS_ON_NODE', '1')}",
        f"--num-gpus={os.environ.get('SLURM_GPUS_ON_NODE') or len(listed)}",
        # Ports that the system has free: another Ray on this node keeps its own.
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--dashboard-agent-listen-port={_free_port()}",
        "--disable-usage-stats",
        "--block",
    ]
    if head:
        words += ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
        words += [f"--ray-client-server-port={_free_port()}", f"--temp-dir={os.environ['RAY_TMPDIR']}"]
    elif why := _unreachable(address):
        print(
            f"node {socket.gethostname()} cannot reach Ray's head at {host}, port {port} ({why}): the sweep runs without it; "
            "all ports must be open between the nodes of a job",
            flush=True,
        )
        return 1
    else:
        words += [f"--address={address}"]
    folder = Path(os.environ["RAY_TMPDIR"])  # of the head, the job has made it
    with nullcontext() if head else private_folder(), open(folder / "start.log", "wb") as log:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]
        ray = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        wanted = Stop()
        while ray.poll() is None and not wanted.asked:
            time.sleep(0.2)
        if not wanted.asked:
            print((folder / "start.log").read_text(errors="replace"), flush=True)
        ray.terminate()  # it ends what it has started
        try:
            return ray.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(ray.pid, signal.SIGKILL)
            return 1


def _own_address(others: Sequence[str]) -> str:
    """This node's address as the others see it."""
    if not others:
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((others[0], 9))  # sends nothing
        return str(probe.getsockname()[0])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _unreachable(address: str) -> str | None:
    """Why nothing can be reached there; None if something listens."""
    host, _, port = address.rpartition(":")
    for attempt in range(ASKED):
        time.sleep(attempt)
        try:
            with socket.create_connection((host, int(port)), CONNECT_SECONDS):
                return None
        except OSError as error:
            why = str(error.strerror or error)
    return why


def _wait(address: str, head: subprocess.Popen[bytes]) -> None:
    """Until Ray's head takes connections; raises ``SystemExit`` if it does not."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and head.poll() is None:
        try:
            with socket.create_connection((host, int(port)), 1):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"Ray's head does not answer at {address} within {START_SECONDS:g} s; see its words above")


def _gather(address: str, nodes: int) -> None:
    """Until all nodes have joined; the sweep begins without those that have not in time, and takes them when they come."""
    deadline = time.monotonic() + JOIN_SECONDS
    there = 0
    while there < nodes and time.monotonic() < deadline:
        with suppress(UserError):
            there = len(ray_cluster.look(address)[1])
        time.sleep(0.5)
    if there < nodes:
        print(
            f"{there} of {nodes} nodes have joined after {JOIN_SECONDS:g} s; is every port open between them?",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
