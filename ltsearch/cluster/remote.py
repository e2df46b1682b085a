"""The laptop's side of a sweep on a cluster: bring the tree there, start the sweep detached, show its log, fetch its report.

``python -m ltsearch.sweep SPEC`` comes here when a cluster is up. ``ltsearch attach|state|stop|fetch SPEC``
speaks to a sweep that was started so. Everything goes through Ray's own commands (`ray exec`, `ray rsync-up`), and so over ssh.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from ltsearch.cluster.detached import END, MARK
from ltsearch.cluster.ray_cluster import DEFAULT_FILE, Cluster, started
from ltsearch.store.provenance import ROOT, SENT_COMMIT, commit
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.spec import Loaded
from ltsearch.study.tree import read_study
from trainables.errors import UserError

LEAVE = {".git", ".venv", "store", "results", "data", "mlruns", "mlartifacts", "build", SENT_COMMIT}  # of the root
CONTACT_SECONDS = 30.0
ANSWER_SECONDS = 120.0
COPY_SECONDS = 600.0
PATIENCE_SECONDS = 600.0  # for a connection that broke
LINKED = ("store", "results", "data", "mlruns", "mlflow.db")  # of every tree on the head, so that trees can change

# What the command line says about the study; where it runs is left out.
PASSED_ON = ("profile", "seeds", "storage", "data_root", "tracking_uri", "max_concurrent")
FLAGS = ("fresh", "retry", "ray_logs")


def run(cluster: Cluster, choice: Choice, options: RunOptions, loaded: Loaded) -> int:
    """Run the sweep there, or attach to it if it runs already; its exit code, or 130 if only the laptop let go."""
    head, again = Head(cluster), partial(_again, choice, options.cluster)
    with packed(choice.spec) as tree:
        words = [tree.spec, *passed_on(choice, options)]
        there = head.contact(tree.name)
        if not there:
            head.push(tree.file, f"~/ltsearch/incoming/{tree.name}.tar.gz")
        answer = head.ask(
            _unpack(tree.name) + head.detached("start", loaded.sweep, *words, folder=f"trees/{tree.name}")
        )
    if answer["state"] == "running" and answer["words"] != words:
        raise UserError(
            f"{loaded.sweep} runs on cluster {cluster.name} already, as `python -m ltsearch.sweep "
            f"{shlex.join(answer['words'])}`; see it with `{again('attach')}`, or end it with `{again('stop')}`"
        )
    if answer["state"] == "running":
        changed = "" if answer["tree"].endswith(f"/{tree.name}") else "; it runs the tree as it was then"
        print(f"{loaded.sweep} runs on cluster {cluster.name} already: attached{changed}", flush=True)
    return attach(head, loaded, again)


def attach(head: Head, loaded: Loaded, again: Callable[[str], str]) -> int:
    """Show the log till the sweep ends, then fetch the report; ``again`` is the command that a verb is typed as."""
    name = head.cluster.name
    offset, broken = 0, 0.0
    while True:
        before = offset
        try:
            ended, offset = head.follow(loaded.sweep, offset)
        except KeyboardInterrupt:
            print(
                f"\ndetached; {loaded.sweep} goes on on cluster {name}. The same command attaches again, and so does "
                f"`{again('attach')}`; `{again('stop')}` ends it",
                file=sys.stderr,
            )
            return 130
        if ended:
            break
        if offset > before or not broken:
            broken = time.monotonic()
        if time.monotonic() - broken > PATIENCE_SECONDS:
            raise UserError(
                f"the connection to {head.cluster.head} is lost; if the host is up, {loaded.sweep} goes on there: "
                f"`{again('attach')}` attaches again"
            )
        print(f"the connection to {head.cluster.head} broke; trying again", file=sys.stderr, flush=True)
        time.sleep(5)
    answer = head.ask(head.detached("state", loaded.sweep))
    if answer["state"] != "ended":
        raise UserError(
            f"{loaded.sweep}: its driver on cluster {name} is gone without a word (was the head restarted?); nothing finished "
            "is lost, the same command goes on"
        )
    code = int(answer["exit"])
    if code in (0, 1):
        try:
            fetch(head, loaded)
        except UserError as error:
            if code == 0:
                raise
            print(f"no report: {error}", file=sys.stderr)
    return code


def fetch(head: Head, loaded: Loaded) -> None:
    """Bring the report here."""
    folder = Path(loaded.spec.report.folder) / loaded.sweep
    source = folder if folder.is_absolute() else Path("~/ltsearch/tree") / folder
    there = f"test -e {shlex.quote(str(folder / 'report.md'))}"
    if not head.ask(f"cd ~/ltsearch/tree && {there} && echo '{MARK}true' || echo '{MARK}false'"):
        raise UserError(
            f"{loaded.sweep}: cluster {head.cluster.name} has no report of it yet; it is written when it ends"
        )
    folder.mkdir(parents=True, exist_ok=True)
    head.pull(f"{source}/", f"{folder}/")
    print(f"fetched: {folder / 'report.md'}")


def passed_on(choice: Choice, options: RunOptions) -> list[str]:
    """The command line for the head: what was said here, but for the place. Paths mean places on the cluster."""
    words = ["--address", "auto"]
    said = vars(choice) | vars(options)
    for name in PASSED_ON:
        if (value := said[name]) is not None:
            if name in ("storage", "data_root") and not _lasting(value):
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: on a cluster that lies in the copy of this checkout, which goes; "
                    "name an absolute path that every host sees, ~/…, or s3://…"
                )
            words += [f"--{name.replace('_', '-')}", str(value)]
    for assignment in choice.set:
        words += ["--set", assignment]
    return words + [f"--{name.replace('_', '-')}" for name in FLAGS if said[name]]


def _lasting(place: str) -> bool:
    """Is a place outside of the tree that is sent, or linked to one that is?"""
    return place.startswith(("/", "~")) or "://" in place or Path(place).parts[0] in LINKED


def _again(choice: Choice, cluster: Path | None, verb: str) -> str:
    words = ["python", "-m", "ltsearch", verb, str(choice.spec)]
    words += ["--profile", choice.profile] if choice.profile else []
    return shlex.join(words + (["--cluster", str(cluster)] if cluster else []))


# -- the tree ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """An archive of what is to run; the name says what is in it, so that nothing is sent twice."""

    name: str
    file: Path
    spec: str  # the study's path in it


@contextlib.contextmanager
def packed(spec: Path) -> Iterator[Tree]:
    """This checkout without data and results, with its commit and the study. Raises ``UserError`` outside of a checkout."""
    if not (ROOT / "pyproject.toml").exists():
        raise UserError(f"{ROOT} is no checkout of ltsearch; clone it and run the command there, or use --local")
    files = {name: ROOT / name for name in tree_files(ROOT)}
    spec = spec.resolve()
    inside = str(spec.relative_to(ROOT)) if spec.is_relative_to(ROOT) else f"specs/{spec.name}"
    with tempfile.TemporaryDirectory(prefix="ltsearch-") as scratch:
        files[inside] = spec if spec.is_relative_to(ROOT) else Path(scratch) / spec.name
        if files[inside] != spec:  # with what it extends, which may lie anywhere; JSON is YAML without surprises
            files[inside].write_text(json.dumps(read_study(spec), ensure_ascii=False, default=str), encoding="utf-8")
        files[SENT_COMMIT] = Path(scratch) / "commit"
        files[SENT_COMMIT].write_text(commit())
        content = hashlib.sha256()
        archive = Path(scratch) / "tree.tar.gz"
        with tarfile.open(archive, "w:gz", compresslevel=5) as tar:
            for name, path in sorted(files.items()):
                content.update(f"{name}\0{os.access(path, os.X_OK)}\0".encode())
                content.update(hashlib.sha256(path.read_bytes()).digest())
                tar.add(path.resolve(), name, recursive=False)
        yield Tree(content.hexdigest()[:12], archive, inside)


def tree_files(root: Path) -> list[str]:
    """Files that belong to a checkout, relative to it."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.split("\0")
    except (OSError, subprocess.SubprocessError):  # an unpacked archive, or no git
        listed = [str(path.relative_to(root)) for path in root.rglob("*") if "__pycache__" not in path.parts]
    kept = {name for name in listed if name and name.split("/")[0] not in LEAVE and not name.startswith("mlflow.db")}
    return sorted(name for name in kept if (root / name).is_file())


def _unpack(tree: str) -> str:
    links = " ".join(f"../../{name}" for name in LINKED)
    return (
        f"cd ~/ltsearch && mkdir -p store results data mlruns && {{ test -d trees/{tree} || {{ rm -rf trees/.{tree} && "
        f"mkdir trees/.{tree} && tar -xzf incoming/{tree}.tar.gz -C trees/.{tree} && ln -s {links} trees/.{tree}/ && "
        f"mv trees/.{tree} trees/{tree} && rm -rf incoming/{tree}.tar.gz; }}; }} && "
    )


# -- the head ------------------------------------------------------------------------------------------------------------


class Head:
    """A cluster's head, through Ray's commands."""

    def __init__(self, cluster: Cluster) -> None:
        """Nothing is sent yet."""
        self.cluster = cluster

    def contact(self, tree: str) -> bool:
        """Is it there, and does it have this tree already? Raises ``UserError`` if it does not answer."""
        script = (
            f"mkdir -p ~/ltsearch/incoming ~/ltsearch/trees ~/ltsearch/jobs && cd ~/ltsearch && echo '{MARK}'$(test -d "
        )
        return self.ask(f"{script}trees/{tree} && echo true || echo false)", CONTACT_SECONDS) is True

    def detached(self, verb: str, *words: str, folder: str = "tree") -> str:
        """A shell command for ``ltsearch.detached``."""
        return f"cd ~/ltsearch/{folder} && python -m ltsearch.cluster.detached {shlex.join([verb, *words])}"

    def ask(self, script: str, seconds: float = ANSWER_SECONDS) -> Any:
        """Run a shell command there and return its answer; raises ``UserError`` without one."""
        said = self._ray("exec", str(self.cluster.file), script, seconds=seconds)
        for line in said.splitlines():
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise self._unreachable(_reason(said, seconds))

    def push(self, source: Path, target: str) -> None:
        """Copy a file there."""
        self._copy("rsync-up", str(source), target)

    def pull(self, source: str, target: str) -> None:
        """Copy a folder's content here."""
        self._copy("rsync-down", source, target)

    def follow(self, job: str, offset: int) -> tuple[bool, int]:
        """Print the job's log from a byte on; whether the job ended (else the connection did), and the next byte."""
        command = self._command("exec", str(self.cluster.file), self.detached("follow", job, str(offset)))
        with _process(command) as process:
            assert process.stdout is not None
            for raw in _lines(process.stdout):
                line = raw.decode(errors="replace").rstrip("\r\n")  # \r: from the terminal that ssh makes
                if line == END:
                    return True, offset
                if told := re.match(rf"{MARK}(\d+) (.*)", line):  # the rest is Ray's, which has much to say
                    offset = int(told[1])
                    print(told[2], flush=True)
        return False, offset

    def _copy(self, verb: str, source: str, target: str) -> None:
        before = time.monotonic()
        said = self._ray(verb, str(self.cluster.file), source, target, seconds=COPY_SECONDS)
        if self._failed:
            took = time.monotonic() - before
            raise UserError(
                f"cluster {self.cluster.name} ({self.cluster.file}): cannot copy {source} to {target} ({_reason(said, took)}); "
                "rsync must be installed here and on the head"
            )

    def _ray(self, *words: str, seconds: float) -> str:
        with _process(self._command(*words)) as process:
            try:
                said, _ = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                self._failed = True
                return ""
            self._failed = process.returncode != 0
            return said.decode(errors="replace").replace("\r\n", "\n")

    @staticmethod
    def _command(*words: str) -> list[str]:
        return [sys.executable, "-m", "ray.scripts.scripts", *words]

    def _unreachable(self, reason: str) -> UserError:
        file, name = self.cluster.file, self.cluster.name
        return UserError(
            f"cluster {name} ({file}): its head {self.cluster.head} does not answer ({reason}); start "
            f"the host and `ray up {file}`, or use --local to run on this machine. Nothing was started"
        )


def _reason(said: str, seconds: float) -> str:
    """What ssh, a shell or Python said, without what Ray says around it."""
    telling = r"ssh: |rsync|kex_|Permission denied|: (command )?not found|No such file|Error: (?!Command failed)"
    found = [line.strip() for line in said.splitlines() if re.search(telling, line) and "Running `" not in line]
    return found[0].rstrip(".")[:300] if found else f"no answer in {seconds:.0f} s"


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    yield from iter(stream.readline, b"")


@contextlib.contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, so that Ctrl-C reaches only us, and ended with all that it started."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


# -- the verbs ------------------------------------------------------------------------------------------------------------


def speak(verb: str, choice: Choice, file: Path | None) -> int:
    """``attach``, ``state``, ``stop`` or ``fetch``; exit codes are those of the sweep, or 130 for detached."""
    cluster = started(file or DEFAULT_FILE, asked=True)
    if cluster is None:
        raise UserError(f"--cluster {file or DEFAULT_FILE}: not up; start it with `ray up {file or DEFAULT_FILE}`")
    head, loaded = Head(cluster), choice.load()
    head.contact("-")
    asked = "stop" if verb == "stop" else "state"
    script = (
        f'{{ test -d ~/ltsearch/tree || echo \'{MARK}{{"state": "none"}}\'; }} && {head.detached(asked, loaded.sweep)}'
    )
    answer = head.ask(script, 120)
    if answer["state"] == "none":
        raise UserError(f"{loaded.sweep} was never started on cluster {head.cluster.name} from a laptop")
    if verb == "attach":
        return attach(head, loaded, partial(_again, choice, file))
    if verb == "fetch":
        fetch(head, loaded)
        return 0
    code = f", exit code {answer['exit']}" if "exit" in answer else ""
    print(f"{loaded.sweep} on cluster {head.cluster.name}: {answer['state']}{code}")
    return 0
