"""``ltsearch VERB …``, or ``python -m ltsearch VERB …`` from a checkout: one command for all that is done with a study."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from ltsearch import join, replay, sweep
from ltsearch.cluster import ray_cluster, slurm
from ltsearch.exit_codes import DONE, MEANING, exit_code
from ltsearch.show import status
from ltsearch.show.cell import describe
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.store.locks import holder
from ltsearch.study.messages import suggest
from ltsearch.study.options import Choice, RunOptions
from trainables.errors import UserError
from trainables.files import Location

STOP_SECONDS = 360.0  # until a sweep that was told to stop must have ended

# What is passed on as it stands: the words after the verb.
PASSED_ON: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "sweep": ("run a study: ablation, search, report", lambda words: sweep.main(words)),
    "join": ("train cells of a sweep on this machine too", lambda words: join.main(words)),
    "plan": ("print what a study would run", lambda words: sweep.main([*words, "--plan"])),
    "replay": ("compare samplers and early stopping on trials that are trained", lambda words: replay.main(words)),
    "costs": ("print what every row costs, without training", lambda words: sweep.main([*words, "--costs"])),
    "report": ("write the report of a sweep again, of all, of an export; compare two", lambda words: _report(words)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; an exit code (``exit_codes``)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in PASSED_ON:
        return PASSED_ON[words[0]][1](words[1:])
    args = parser().parse_args(words)
    return exit_code(lambda: _run(args))


def parser() -> argparse.ArgumentParser:
    """All verbs. Those of ``PASSED_ON`` stand here for help and completion only."""
    p = argparse.ArgumentParser(
        prog="ltsearch",
        description="Ablations and hyperparameter searches of long-tailed image recognition, on Ray.",
        epilog=f"Exit codes: {MEANING}.",
        allow_abbrev=False,
    )
    verbs = p.add_subparsers(dest="verb", required=True, metavar="VERB")
    study = sweep.parser(add_help=False)
    for verb, (does, _) in PASSED_ON.items():
        parents = {"report": [], "join": [join.parser(add_help=False)], "replay": [replay.parser(add_help=False)]}.get(
            verb, [study]
        )
        verbs.add_parser(verb, help=does, description=does, parents=parents, allow_abbrev=False)
    for verb, does in {
        "status": "how a sweep stands: its trials, nodes and failures",
        "stop": "end a sweep as Ctrl-C does: what finished is kept, the same command goes on",
        "attach": "show the output of a sweep on a cluster till it ends, then fetch its report",
        "fetch": "fetch the report of a sweep on a cluster as it is now",
    }.items():
        one = verbs.add_parser(verb, help=does, description=does, allow_abbrev=False)
        one.add_argument("spec", type=Path, help="the study, a YAML file")
        one.add_argument("--profile", help="the profile that it runs with")
        _add_cluster(one)
        if verb in ("status", "stop"):
            one.add_argument("--local", action="store_true", help="of this machine, whatever cluster is up")
            _add_storage(one)
    does = "the sweeps that were sent to a cluster, and how they stand"
    _add_cluster(verbs.add_parser("jobs", help=does, description=does, allow_abbrev=False))
    does = "ask a running sweep for more trials, fewer at once, or a row less; the study's file stays as it is"
    change = verbs.add_parser("change", help=does, description=does, allow_abbrev=False)
    change.add_argument("spec", type=Path, help="the study, a YAML file")
    change.add_argument("--profile", help="the profile that it runs with")
    change.add_argument("--trials", type=int, metavar="N", help="of the search, all in all")
    change.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once")
    change.add_argument(
        "--leave-out", action="append", default=[], metavar="ROW", help="train no more cells of this row"
    )
    _add_storage(change)
    shown = verbs.add_parser("show", help="what is kept of one cell", description="What is kept of one cell.")
    shown.add_argument("cell", help="its id, or the beginning of it")
    _add_storage(shown)
    does = "put the trials of an export into a store, so that a sweep goes on from them"
    back = verbs.add_parser("restore", help=does, description=does, allow_abbrev=False)
    back.add_argument("export", type=Path, help="export.zip of a report")
    _add_storage(back)
    does = "a script that completes ltsearch's words in a shell"
    shell = verbs.add_parser("completion", help=does, description=f'{does}: eval "$(ltsearch completion bash)"')
    shell.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return p


def _add_cluster(one: argparse.ArgumentParser) -> None:
    here = f"a file of `ray up`, or http://… of a dashboard (default: {ray_cluster.DEFAULT_FILE} here, if it is up)"
    one.add_argument("--cluster", metavar="WHERE", help=here)


def _add_storage(one: argparse.ArgumentParser) -> None:
    one.add_argument("--storage", metavar="PLACE", help=f"where cells live (default: {STORAGE_VARIABLE} or ./store)")


def _run(args: argparse.Namespace) -> int:
    match args.verb:
        case "show":
            print(describe(CellStore(storage_root(args.storage)), args.cell))
        case "restore":
            _restore(args.export, CellStore(storage_root(args.storage)))
        case "completion":
            import shtab

            print(shtab.complete(parser(), args.shell))
        case "jobs" | "attach" | "fetch":
            return _on_cluster(args)
        case "status" | "stop" if ray_cluster.elsewhere(args.cluster, None, args.local) is not None:
            return _on_cluster(args)
        case "status":
            name, folder = _sweep(args)
            queued = slurm.jobs(name) if slurm.known(name) else []
            if not queued or status.read(folder) is not None:
                print(status.render(_known(name, folder)))
            for number, state in queued:
                print(f"  job {number} of Slurm: {state.lower()}")
        case "change":
            _change(args)
        case "stop":
            name, folder = _sweep(args)
            if slurm.known(name) and slurm.jobs(name):
                slurm.stop(name)
                print(f"{name}: its jobs have left Slurm's queue; the same command goes on")
            else:
                _known(name, folder)
                stop(name, folder)
    return DONE


def _on_cluster(args: argparse.Namespace) -> int:
    from ltsearch.cluster import ray_jobs

    cluster = ray_cluster.elsewhere(args.cluster or str(ray_cluster.DEFAULT_FILE), None, False)
    assert cluster is not None
    if args.verb == "jobs":
        print(ray_jobs.listing(cluster))
        return DONE
    options = RunOptions(storage=getattr(args, "storage", None), cluster=args.cluster)
    return ray_jobs.speak(args.verb, Choice(args.spec, args.profile), options, cluster)


def _sweep(args: argparse.Namespace) -> tuple[str, Location]:
    name = Choice(args.spec, args.profile).load().sweep
    return name, CellStore(storage_root(args.storage)).sweep_folder(name)


def _known(name: str, folder: Location) -> status.SweepStatus:
    found = status.read(folder)
    if found is None:
        raise UserError(
            f"{name}: never run on --storage {folder.parent.parent}; start it, or name the storage that it uses"
        )
    return found


def stop(sweep_name: str, folder: Location) -> None:
    """End a sweep as Ctrl-C does, and wait until it has let go; raises ``UserError`` if it does not run on this machine."""
    held = holder(folder)
    if held is None:
        raise UserError(f"{sweep_name} is not running")
    pid, host = held
    if host:
        raise UserError(f"{sweep_name} runs on {host} (process {pid}); type this there")
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while holder(folder) == held:
        if time.monotonic() > deadline:
            raise UserError(
                f"{sweep_name} was told to stop and has not ended after {STOP_SECONDS:g} s (it may wait for MLflow); "
                f"`kill -9 {pid}` ends process {pid} at once, and nothing finished is lost"
            )
        time.sleep(0.2)
    print(f"{sweep_name}: stopped; the same command goes on")


def _change(args: argparse.Namespace) -> None:
    from ltsearch.plan.layout import make_plan
    from ltsearch.run import wishes

    plan = make_plan(Choice(args.spec, args.profile).load())
    name = plan.loaded.sweep
    folder = CellStore(storage_root(args.storage)).sweep_folder(name)
    asked = {"trials": args.trials, "max_concurrent": args.max_concurrent}
    for option, value in asked.items():
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: at least 1")
    labels = [row.label for row in plan.rows]
    for row in args.leave_out:
        if row not in labels:
            raise UserError(f"--leave-out {row!r}: no such row; {suggest(row, labels)}")
    if not args.leave_out and all(value is None for value in asked.values()):
        raise UserError("nothing is asked for; --trials N, --max-concurrent N or --leave-out ROW")
    if holder(folder) is None:
        raise UserError(
            f"{name} is not running on --storage {folder.parent.parent}; its command takes --set search.trials=N and "
            "--max-concurrent N, and rows are left out in the study"
        )
    wishes.write(folder, wishes.Wishes(left_out=args.leave_out, **asked))
    print(f"{name}: asked; the sweep says in its output what it does")


def _restore(export: Path, store: CellStore) -> None:
    from ltsearch.store.restore import restore

    found = restore(export, store)
    print(f"{export}: {found.new} trials put into {store.root}, {found.there} were there already")
    for cell, why in list(found.left_out.items())[:5]:
        print(f"left out, {cell}: {why}")
    if len(found.left_out) > 5:
        print(f"left out, and {len(found.left_out) - 5} more")


def _report(words: list[str]) -> int:
    code: int = import_module("analysis.report").main(words)  # by name: nothing here depends on it
    return code


if __name__ == "__main__":
    sys.exit(main())
