"""A sweep on a cluster, from a laptop: sent, followed, stopped and found again through Ray's job API.

``python -m ltsearch.sweep SPEC`` comes here when a cluster is up or ``--cluster`` names one; ``ltsearch attach, status, stop,
fetch, jobs`` speak to what was sent so. The job belongs to the cluster: it goes on when the laptop goes away.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import shlex
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltsearch.cluster.packing import LINKED, packed
from ltsearch.cluster.ray_cluster import Cluster
from ltsearch.cluster.tunnel import MARK, Head, Unreachable
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.spec import Loaded
from trainables.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

PATIENCE_SECONDS = 600.0  # for a connection that broke
QUIET_SECONDS = 60.0  # without a word: the connection may be dead, so it is looked whether the head answers
AGAIN_SECONDS = 5.0  # until a connection is tried again
ANSWER_SECONDS = 1800.0  # of a job that only looks, or writes a report
STOP_SECONDS = 360  # that Ray gives a driver to end in order; its own value is 3
DONE, NO_RESULT, INTERRUPTED = 0, 1, 130  # as in ``exit_codes``, which is not this room's to import
SWEEP = "ltsearch.sweep"  # in a job's metadata: the sweep's name,
WORDS = "ltsearch.words"  # and what was typed, as a JSON list
RAYS = re.compile(r"^Running entrypoint for job .*\n", re.MULTILINE)  # Ray's word, which may come after our first ones

# What the command line says about the study; where it runs is left out.
PASSED_ON = ("profile", "seeds", "storage", "data_root", "tracking_uri", "max_concurrent")
FLAGS = ("fresh", "retry", "ray_logs")


def run(cluster: Cluster, choice: Choice, options: RunOptions, loaded: Loaded) -> int:
    """Run the sweep there, or attach to it if it runs already; its exit code, or 130 if only the laptop let go."""
    again, words = partial(_again, choice, options.cluster), passed_on(choice, options)
    with Head(cluster) as head, head.told():
        job = _latest(head, loaded.sweep)
        if job is not None and not _over(job):
            typed = json.loads(job.metadata[WORDS])
            if typed[1:] != words:
                raise UserError(
                    f"{loaded.sweep} runs on cluster {cluster.name} already, as `python -m ltsearch.sweep "
                    f"{shlex.join(typed)}`; see it with `{again('attach')}`, or end it with `{again('stop')}`"
                )
            print(f"{loaded.sweep} runs on cluster {cluster.name} already: attached", flush=True)
            name = str(job.submission_id)
        else:
            name = _submit(head, choice, loaded.sweep, words)
        return attach(head, choice, options, loaded, name, again)


def attach(
    head: Head, choice: Choice, options: RunOptions, loaded: Loaded, name: str, again: Callable[[str], str]
) -> int:
    """Show the log till the sweep ends, then fetch the report; ``again`` is the command that a verb is typed as."""
    try:
        job = follow(head, name)
    except KeyboardInterrupt:
        print(
            f"\ndetached; {loaded.sweep} goes on on cluster {head.cluster.name}. The same command attaches again, and so does "
            f"`{again('attach')}`; `{again('stop')}` ends it",
            file=sys.stderr,
        )
        return INTERRUPTED
    except Unreachable:
        raise UserError(
            f"the connection to {head.cluster.head} is lost; if the host is up, {loaded.sweep} goes on there: "
            f"`{again('attach')}` attaches again"
        ) from None
    code = _exit_code(job)
    if code is None:
        raise UserError(
            f"{loaded.sweep}: its driver on cluster {head.cluster.name} is gone ({_first(job.message)}); nothing finished "
            "is lost, the same command goes on"
        )
    if code in (DONE, NO_RESULT):
        try:
            fetch(head, choice, options, loaded)
        except UserError as error:
            if code == DONE:
                raise
            print(f"no report: {error}", file=sys.stderr)
    return code


def follow(head: Head, name: str) -> JobDetails:
    """Print a job's log until it has ended, each line once, through connections that break; what it was in the end.

    Raises:
        Unreachable: None came about for ten minutes.
        UserError: The cluster knows no such job any more.
    """
    import aiohttp

    log, broken = _Log(), 0.0
    while True:
        try:
            before = log.shown
            asyncio.run(log.tail(head, name))
            job: JobDetails = head.ask(lambda client: client.get_job_info(name))
            if _over(job):
                log.end()
                return job
            broken = 0.0
            time.sleep(0.0 if log.shown > before else AGAIN_SECONDS)  # an end that was none
        except BrokenPipeError:  # whoever reads our output has gone
            raise
        except (
            aiohttp.ClientError,
            OSError,
            RuntimeError,
            Unreachable,
        ):  # RuntimeError is what Ray makes of a broken connection
            broken = broken or time.monotonic()
            if time.monotonic() - broken > PATIENCE_SECONDS:
                raise Unreachable(name) from None
            with contextlib.suppress(Unreachable):  # refused, not broken: by a head that was restarted, say
                head.ask(lambda client: client.get_job_info(name))
            print(f"the connection to {head.cluster.head} broke; trying again", file=sys.stderr, flush=True)
            time.sleep(AGAIN_SECONDS)


class _Log:
    """What a job says after ``MARK``: before it Ray does. A new connection tells all of it again."""

    def __init__(self) -> None:
        self.shown = 0  # characters, Ray's words among them
        self._heard = 0
        self._before: str | None = ""  # all that was said, until the mark

    async def tail(self, head: Head, name: str) -> None:
        self._heard = 0
        lines = head.client().tail_job_logs(name)
        word = asyncio.ensure_future(anext(lines))
        try:
            while True:
                done, _ = await asyncio.wait({word}, timeout=QUIET_SECONDS)
                if done:
                    self.show(word.result())
                    word = asyncio.ensure_future(anext(lines))
                elif _over(await asyncio.to_thread(head.ask, lambda client: client.get_job_info(name))):
                    return
        except StopAsyncIteration:
            return
        finally:
            word.cancel()

    def show(self, text: str) -> None:
        new = text[max(0, self.shown - self._heard) :]
        self._heard += len(text)
        self.shown = max(self.shown, self._heard)
        if self._before is not None:
            self._before, mark, new = (self._before + new).partition(f"{MARK}\n")
            if not mark:
                return
            self._before = None
        print(RAYS.sub("", new), end="", flush=True)

    def end(self) -> None:
        """A job that never came to its first word: what Ray said stands for it."""
        if self._before:
            print(self._before, end="", file=sys.stderr, flush=True)


def fetch(head: Head, choice: Choice, options: RunOptions, loaded: Loaded) -> None:
    """Have the report written there as it is now, with its export, and bring both here, through the job's log."""
    words = _words(choice, options, ("profile", "storage", "tracking_uri"))
    report = f"python -m ltsearch report {{study}} {words} --export --out $out/all"
    packed = f"tar -cz -f $out/tar -C $out/all . && echo {MARK} && base64 -w 0 $out/tar"
    script = f"out=$(mktemp -d) && {report} && {packed}; code=$?; rm -r $out; exit $code"
    code, said = _answer(head, choice, loaded, script)
    said, _, parcel = said.partition(f"{MARK}\n")
    if code != 0:
        raise UserError(f"cluster {head.cluster.name}: {said.strip().removeprefix('error: ') or 'no report'}")
    folder = Path(loaded.spec.report.folder) / loaded.sweep
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(parcel))) as tar:
        tar.extractall(folder, filter="data")
    print(f"fetched: {folder / 'report.md'}")


def speak(verb: str, choice: Choice, options: RunOptions, cluster: Cluster) -> int:
    """``attach``, ``status``, ``stop`` or ``fetch``; exit codes are those of the sweep, or 130 for detached."""
    loaded, again = choice.load(), partial(_again, choice, options.cluster)
    with Head(cluster) as head, head.told():
        job = _latest(head, loaded.sweep)
        if job is None and verb != "status":
            raise UserError(
                f"{loaded.sweep}: cluster {cluster.name} knows no job of it (it was never sent there, or the head was "
                "restarted since); nothing finished is lost, its command starts it or goes on"
            )
        if job is not None:  # with the places that it was started with
            typed = json.loads(job.metadata[WORDS])
            places = dict(zip(typed, typed[1:], strict=False))
            storage = options.storage or places.get("--storage")
            options = replace(options, storage=storage, tracking_uri=places.get("--tracking-uri"))
        name = str(job.submission_id) if job is not None else ""
        match verb:
            case "attach":
                return attach(head, choice, options, loaded, name, again)
            case "fetch":
                fetch(head, choice, options, loaded)
            case "stop":
                head.ask(lambda client: client.stop_job(name))
                deadline = time.monotonic() + STOP_SECONDS + 30
                while not _over(job := head.ask(lambda client: client.get_job_info(name))):
                    if time.monotonic() > deadline:
                        raise UserError(f"{loaded.sweep}: told to stop, and has not ended in {STOP_SECONDS} s")
                    time.sleep(0.5)
                print(f"{loaded.sweep} on cluster {cluster.name}: {_state(job)}")
            case "status":
                if job is not None:
                    print(f"{loaded.sweep} on cluster {cluster.name}: {_state(job)}", flush=True)
                words = _words(choice, options, ("profile", "storage"))
                code, said = _answer(head, choice, loaded, f"python -m ltsearch status {{study}} --local {words}")
                if code != 0:
                    raise UserError(said.strip().removeprefix("error: "))
                print(said, end="")
    return DONE


def listing(cluster: Cluster) -> str:
    """The sweeps that were sent to a cluster, the latest last: name, state, since when, and what was typed."""
    with Head(cluster) as head, head.told():
        jobs = _sweeps(head)
    if not jobs:
        return f"no sweep was sent to cluster {cluster.name} since its head was started"
    lines = []
    for job in jobs:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime((job.start_time or 0) / 1000))
        typed = shlex.join(json.loads(job.metadata[WORDS]))
        lines.append(f"{job.metadata[SWEEP]}  {_state(job)}  since {since}  python -m ltsearch.sweep {typed}")
    return "\n".join(lines)


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


def _words(choice: Choice, options: RunOptions, names: tuple[str, ...]) -> str:
    said = vars(options) | vars(choice)
    return shlex.join([w for name in names if said[name] for w in (f"--{name.replace('_', '-')}", str(said[name]))])


def _again(choice: Choice, cluster: str | None, verb: str) -> str:
    words = ["python", "-m", "ltsearch", verb, str(choice.spec)]
    words += ["--profile", choice.profile] if choice.profile else []
    return shlex.join(words + (["--cluster", cluster] if cluster else []))


# -- jobs ------------------------------------------------------------------------------------------------------------------


def _submit(head: Head, choice: Choice, sweep: str, words: list[str]) -> str:
    metadata = {SWEEP: sweep, WORDS: json.dumps([str(choice.spec), *words])}
    with packed(choice.spec) as tree:
        script = f"exec python -m ltsearch.sweep {shlex.join([tree.spec, *words])}"
        return _send(head, tree.file, _plain(sweep), script, metadata)


def _answer(head: Head, choice: Choice, loaded: Loaded, script: str) -> tuple[int, str]:
    """Run a shell script in the tree, ``{study}`` the study's path, and wait for it: its exit code, and all that it said."""
    with packed(choice.spec, loaded.spec.name) as tree:
        name = _send(head, tree.file, "look", script.replace("{study}", shlex.quote(tree.spec)), {})
    try:
        deadline = time.monotonic() + ANSWER_SECONDS
        while not _over(job := head.ask(lambda client: client.get_job_info(name))):
            if time.monotonic() > deadline:
                raise UserError(f"cluster {head.cluster.name}: job {name} has not answered in {ANSWER_SECONDS:g} s")
            time.sleep(0.2)
        said: str = head.ask(lambda client: client.get_job_logs(name))
    except BaseException:  # Ctrl-C too: nobody waits for it
        with contextlib.suppress(UserError, Unreachable):
            head.ask(lambda client: client.stop_job(name))
        raise
    head.ask(lambda client: client.delete_job(name))
    before, mark, after = said.partition(f"{MARK}\n")
    if not mark:
        raise UserError(
            f"cluster {head.cluster.name}: job {name} never started ({_first(job.message)}) {before}".rstrip()
        )
    code = 0 if job.status == "SUCCEEDED" else job.driver_exit_code or 1
    return code, RAYS.sub("", after)


def _send(head: Head, tree: Path, name: str, script: str, metadata: dict[str, str]) -> str:
    """Start a job in the tree, beside places that outlive it."""
    links = " ".join(f"~/ltsearch/{name}" for name in LINKED)
    made = f"mkdir -p {links.replace('~/ltsearch/mlflow.db', '')}&& ln -sfn {links} ."
    entrypoint = f"echo {MARK}; {made} && export RAY_OVERRIDE_JOB_RUNTIME_ENV=1 && {script}"
    return str(
        head.ask(
            lambda client: client.submit_job(
                entrypoint=entrypoint,
                submission_id=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}",
                runtime_env={"working_dir": str(tree), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}},
                metadata=metadata,
            )
        )
    )


def _sweeps(head: Head) -> list[JobDetails]:
    jobs = head.ask(lambda client: client.list_jobs())
    return sorted((job for job in jobs if SWEEP in (job.metadata or {})), key=lambda job: job.start_time or 0)


def _latest(head: Head, sweep: str) -> JobDetails | None:
    return next((job for job in reversed(_sweeps(head)) if job.metadata[SWEEP] == sweep), None)


def _over(job: JobDetails) -> bool:
    return bool(job.status.is_terminal())


def _exit_code(job: JobDetails) -> int | None:
    """Of a job that is over; None if it went down with its head, or never began."""
    if job.status == "STOPPED":
        return INTERRUPTED
    return None if job.driver_exit_code is None or job.driver_exit_code < 0 else int(job.driver_exit_code)


def _state(job: JobDetails) -> str:
    if not _over(job):
        return "running" if job.status == "RUNNING" else "about to start"
    code = _exit_code(job)
    return f"ended, exit code {code}" if code is not None else f"gone ({_first(job.message)})"


def _first(message: Any) -> str:
    return (str(message or "").strip().splitlines() or ["without a word"])[0][:300]


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
