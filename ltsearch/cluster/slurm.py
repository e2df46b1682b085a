"""A sweep as jobs of Slurm: what a site asks for, the job's script, and its way into the queue, through it and out of it.

``--slurm FILE`` submits. Two modes: an ``array`` of jobs of one node each that pull cells through claims (``ltsearch join``),
which start whenever one node is free; or one ``allocation`` of several nodes with a Ray cluster of its own, for trials of many
workers. ``slurm_job`` is what runs in the job.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ltsearch.study.messages import explain
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.yaml_file import read_yaml
from trainables.errors import UserError
from trainables.section import Checked

FOLDER = Path("slurm")  # below the working directory: script, job's file and logs of every sweep
STOP_SIGNAL = signal.SIGUSR1  # to the job's own process, which ends the sweep in order
STOP_SECONDS = 360.0  # until the sweep must have ended
# What Slurm says when it refuses, and the key that it means.
REFUSALS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "time": "time",
    "feature": "constraint",
    "reservation": "reservation",
    "gres": "gpus_per_node",
    "gpu": "gpus_per_node",
    "memory": "memory",
    "processors": "cpus_per_node",
    "node count": "nodes",
    "node configuration": "cpus_per_node, gpus_per_node, memory or constraint",
}


class Site(Checked):
    """What the jobs ask Slurm for, and how they find Python: a YAML file."""

    mode: Literal["array", "allocation"] = Field(
        "array",
        description="array: jobs of one node each, without a cluster; allocation: one job of all nodes, with one",
    )
    nodes: int = Field(1, ge=1, le=10_000, description="jobs at once of an array; nodes of an allocation")
    cpus_per_node: int = Field(ge=1)
    gpus_per_node: int = Field(0, ge=0)
    gpu_type: str | None = Field(None, description="as the site's Slurm calls it: a100, h100, …")
    memory: str | None = Field(None, description="of a node, such as 64G")
    time: str = Field(description="of a job, as Slurm writes it: minutes, HH:MM:SS or D-HH:MM:SS")
    margin_minutes: float = Field(
        10,
        gt=0,
        le=1440,
        description="so long before the end of its time a job submits the next one and ends its sweep",
    )
    restarts: int = Field(
        100, ge=0, le=10_000, description="how often a job that ran out of time is followed by another"
    )
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    options: tuple[str, ...] = Field((), description="more options of sbatch, such as --exclusive")
    setup: str = Field("", description="shell lines that every node runs before: module load …, source …/activate")
    python: str = Field(shlex.quote(sys.executable), description="as the nodes find it (default: the one that submits)")
    container: str | None = Field(
        None,
        description="words before the Python that trains: apptainer exec --nv image.sif; the job itself, which calls Slurm's "
        "commands, stays outside",
    )
    python_inside: str = Field("python3", description="as the container has it; without one `python` trains")

    @field_validator(
        "partition", "account", "qos", "constraint", "reservation", "memory", "time", "gpu_type", "options"
    )
    @classmethod
    def _one_line(cls, value: object) -> object:
        for word in value if isinstance(value, tuple) else [value]:
            if isinstance(word, str) and (not word.strip() or "\n" in word):
                raise ValueError(f"{word!r} is not one line of text")
        return value

    @model_validator(mode="after")
    def _time_for_work(self) -> Self:
        asked = minutes(self.time)
        if asked is not None and 0 < asked <= self.margin_minutes:  # 0: no limit
            raise ValueError(
                f"time = {self.time!r} leaves nothing before margin_minutes = {self.margin_minutes:g}, in which a job ends its "
                "sweep: raise the first, or lower the second"
            )
        return self

    @property
    def node(self) -> dict[str, float]:
        """What a node is granted, by Ray's names."""
        return {"CPU": float(self.cpus_per_node), "GPU": float(self.gpus_per_node)}

    @property
    def command(self) -> list[str]:
        """The Python that trains."""
        return (
            [*shlex.split(self.container), *shlex.split(self.python_inside)]
            if self.container
            else shlex.split(self.python)
        )


def minutes(time: str) -> float | None:
    """What Slurm takes a time for: M, M:S, H:M:S, D-H, D-H:M or D-H:M:S; None if for nothing."""
    days, dash, rest = time.strip().rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in [*parts, *([days] if dash else [])]) or len(parts) > 3:
        return None
    numbers = [int(part) for part in parts]
    if not dash and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, minute, seconds = (numbers + [0, 0])[:3]
    return 1440 * int(days or 0) + 60 * hours + minute + seconds / 60


@dataclass(frozen=True)
class JobFile:
    """``job.json``, which the job reads."""

    name: str
    mode: str
    command: list[str]  # the Python that trains
    setup: str
    margin_seconds: float
    restarts: int
    script: str
    sweep: list[str]  # words after `-m ltsearch.sweep`
    again: list[str]  # the same in a job that follows
    join: list[str]  # words after `-m ltsearch join`


def read_site(file: Path) -> Site:
    """Raises ``UserError`` naming file, key, value and what is allowed."""
    tree = read_yaml(file)
    try:
        return Site.model_validate(tree)
    except ValidationError as error:
        raise explain(error, Site, str(file)) from None


def job_name(sweep: str) -> str:
    """As ``squeue`` shows it: the same study submitted from another folder is another sweep."""
    return f"ltsearch-{sweep}-{hashlib.sha256(str(FOLDER.absolute()).encode()).hexdigest()[:6]}"


def _quoted(folder: Path) -> str:
    """A path in a line of ``#SBATCH``, where % begins a pattern."""
    return str(folder).replace("%", "%%")


def script(site: Site, sweep: str, folder: Path) -> str:
    """What ``sbatch`` is given."""
    gpus = f"{site.gpu_type}:{site.gpus_per_node}" if site.gpu_type else str(site.gpus_per_node)
    shape = (
        {"array": f"0-{site.nodes - 1}", "nodes": "1", "ntasks": "1"}
        if site.mode == "array"
        else {"nodes": str(site.nodes), "ntasks-per-node": "1"}
    )
    asked: dict[str, str | None] = {
        "job-name": job_name(sweep),
        **shape,
        "cpus-per-task": str(site.cpus_per_node),
        "gpus-per-node": gpus if site.gpus_per_node else None,
        "mem": site.memory,
        "time": site.time,
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "reservation": site.reservation,
        "output": f"{_quoted(folder)}/{'%A_%a' if site.mode == 'array' else '%j'}.log",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={shlex.quote(value)}" for key, value in asked.items() if value is not None]
    # A job whose node is lost is run again; an allocation goes on without the node, unless it is the first.
    lines += ["#SBATCH --requeue", *(["#SBATCH --no-kill"] if site.mode == "allocation" else [])]
    lines += [f"#SBATCH {option}" for option in site.options]
    run = shlex.join([*shlex.split(site.python), "-m", "ltsearch.cluster.slurm_job", "run", str(folder / "job.json")])
    # How many jobs came before this one because of time is the script's word: `--export=NONE` would lose a variable.
    return "\n".join(["#!/bin/bash", *lines, f"cd {shlex.quote(str(Path.cwd()))}", site.setup, f'exec {run} "$@"', ""])


def words(choice: Choice, options: RunOptions) -> tuple[list[str], list[str], list[str]]:
    """The command lines of the sweep, of the same in a job that follows, and of a machine that joins it."""
    study = [str(choice.spec)]
    for name, value in {
        "profile": choice.profile,
        "seeds": choice.seeds,
        "max-concurrent": choice.max_concurrent,
    }.items():
        study += [f"--{name}", str(value)] if value is not None else []
    for assignment in choice.set:
        study += ["--set", assignment]
    for name, place in {"storage": options.storage, "data-root": options.data_root}.items():
        study += [f"--{name}", place] if place is not None else []
    logs = ["--ray-logs"] if options.ray_logs else []
    tracking = ["--tracking-uri", options.tracking_uri] if options.tracking_uri is not None else []
    once = [f"--{name}" for name in ("fresh", "retry") if getattr(options, name)]
    return [*study, *tracking, *logs, *once], [*study, *tracking, *logs], [*study, *logs]


def write(file: Path, site: Site, sweep: str, choice: Choice, options: RunOptions) -> Path:
    """The script and the job's file; returns the script. Raises ``UserError`` for what does not go together."""
    if options.fresh and site.mode == "array":
        raise UserError(
            f"--fresh with `mode: array` of {file}: its jobs start at different times, and would forget what others trained; "
            "run `--fresh` without --slurm, or name another --storage"
        )
    folder = (FOLDER / sweep).absolute()
    first, again, joins = words(choice, options)
    job = JobFile(
        sweep,
        site.mode,
        site.command,
        site.setup,
        60 * site.margin_minutes,
        site.restarts,
        str(folder / "job.sh"),
        first,
        again,
        joins,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(json.dumps(asdict(job), indent=1))
        (folder / "job.sh").write_text(script(site, sweep, folder))
    except OSError as error:
        raise UserError(f"{folder}: the job's script cannot be written ({error.strerror or error})") from None
    return folder / "job.sh"


def submit(file: Path, site: Site, sweep: str, choice: Choice, options: RunOptions) -> str:
    """Put it into the queue; returns what to tell. Raises ``UserError`` with Slurm's own words, and the key that they mean."""
    if waiting := jobs(sweep):
        there = ", ".join(f"{number} ({state})" for number, state in waiting)
        raise UserError(
            f"{sweep} is in Slurm's queue already: job {there}; `ltsearch status` and `ltsearch stop` know it"
        )
    path = write(file, site, sweep, choice, options)
    done = slurm(["sbatch", "--parsable", str(path)])
    if done.returncode:
        said = done.stderr.strip().replace("sbatch: error: ", "").replace("\n", "; ")
        key = next((key for word, key in REFUSALS.items() if word in said.lower()), None)
        raise UserError(f"{file}: Slurm refuses the job: {said}" + (f"; see its {key}" if key else ""))
    number = done.stdout.strip().split(";")[0]
    return (
        f"{sweep}: job {number} of Slurm; its output: {path.parent}/{number}{'_*' if site.mode == 'array' else ''}.log"
    )


def slurm(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a command of Slurm's; raises ``UserError`` if there is none."""
    if shutil.which(command[0]) is None:
        raise UserError(
            f"no {command[0]} on this machine: type this on a login node of the site, where Slurm's commands are"
        )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_")) or k == "SLURM_CONF"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=kept, stdin=subprocess.DEVNULL)


def jobs(sweep: str) -> list[tuple[str, str]]:
    """Number and state of this user's jobs of a sweep that wait or run; raises ``UserError`` if Slurm does not answer."""
    done = slurm(["squeue", "--noheader", f"--user={getpass.getuser()}", f"--name={job_name(sweep)}", "--format=%i %T"])
    if done.returncode:
        raise UserError(f"Slurm does not answer: {done.stderr.strip()}")
    return [
        (number, state) for number, state in (line.split(None, 1) for line in done.stdout.splitlines() if line.strip())
    ]


def known(sweep: str) -> bool:
    """Was this sweep submitted from this folder?"""
    return (FOLDER / sweep / "job.json").is_file() and shutil.which("squeue") is not None


def stop(sweep: str) -> None:
    """Take its jobs out of the queue, and end those that run as Ctrl-C does; raises ``UserError`` if they do not end."""
    name = [f"--name={job_name(sweep)}", f"--user={getpass.getuser()}"]
    slurm(["scancel", *name, "--state=PENDING"])
    slurm(["scancel", *name, "--batch", f"--signal={STOP_SIGNAL.name.removeprefix('SIG')}"])
    deadline = time.monotonic() + STOP_SECONDS
    while left := jobs(sweep):
        if time.monotonic() > deadline:
            numbers = " ".join(number for number, _ in left)
            raise UserError(
                f"{sweep} was told to stop and has not ended after {STOP_SECONDS:g} s; `scancel {numbers}` ends it"
            )
        time.sleep(0.5)
