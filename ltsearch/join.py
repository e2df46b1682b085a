"""``ltsearch join STUDY``: this machine trains cells of a sweep too, wherever its driver is; all they share is the storage.

No cluster is needed: cells are pulled one by one through claims, so that a machine, or a job of a batch system, comes and goes.
Search, MLflow and report stay the sweep's own; whoever trains a cell, its driver finds it finished.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from ltsearch import preflight
from ltsearch.exit_codes import DONE, MEANING, NO_RESULT, exit_code
from ltsearch.plan import placement, sources
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.store.claims import Claims
from ltsearch.store.locks import sweep_lock
from ltsearch.store.provenance import collect
from ltsearch.store.records import Status
from ltsearch.study.options import Choice
from ltsearch.study.spec import Loaded
from ltsearch.sweep import terminable


def main(argv: list[str] | None = None) -> int:
    """The command; an exit code (``exit_codes``)."""
    args = parser().parse_args(argv)
    choice = Choice(args.spec, args.profile, tuple(args.set), args.seeds, args.max_concurrent)
    with terminable():
        return exit_code(lambda: join(choice.load(), args.storage, args.data_root, ray_logs=args.ray_logs))


def parser(prog: str = "ltsearch join", *, add_help: bool = True) -> argparse.ArgumentParser:
    """The command line."""
    does = "Train cells of a sweep on this machine too. The sweep itself runs elsewhere, on the same storage, before or after."
    p = argparse.ArgumentParser(
        prog=prog, description=does, epilog=f"Exit codes: {MEANING}.", allow_abbrev=False, add_help=add_help
    )
    p.add_argument("spec", type=Path, help="the study, a YAML file")
    p.add_argument("--profile", help="the profile that it runs with")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study, as the sweep"
    )
    p.add_argument("--seeds", help="a number of seeds, or a list: 0,1,2")
    p.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once on this machine")
    p.add_argument("--storage", metavar="PLACE", help=f"where cells live (default: {STORAGE_VARIABLE} or ./store)")
    p.add_argument("--data-root", help="where data sets lie (default: LTSEARCH_DATA or ./data)")
    p.add_argument("--ray-logs", action="store_true", help="show Ray's own messages")
    return p


def join(loaded: Loaded, storage: str | None, data_root: str | None, *, ray_logs: bool = False) -> int:
    """Train what nobody else trains, until others have all that is left; an exit code. Raises ``UserError`` for wrong input."""
    plan = replace(make_plan(loaded), search_base=None)
    resources = loaded.spec.resources
    store, root = CellStore(storage_root(storage)), sources.data_root(data_root)
    uri = preflight.places(plan, store, root, None)
    placement.check_here(resources, placement.this_machine())
    preflight.access(plan, store, uri)
    name = f"{loaded.sweep}+{socket.gethostname()}-{os.getpid()}"
    folder = store.sweep_folder(name)
    try:
        with sweep_lock(folder) as lock, ExitStack() as session:
            claims = Claims(store, lock)
            work = outstanding.look(plan, store, root, fresh=False, retry=False, say=print)
            if not work.configs:
                print(f"{loaded.sweep}: no cell of its ablation is left to train")
                return DONE
            functions = preflight.functions(work.configs, {})
            outstanding.read_data(plan, work, root, say=print)
            preflight.warn_of_emulation(work.configs, resources)

            from ltsearch.run import joining, nodes, packs
            from ltsearch.run.capacity import Capacity
            from ltsearch.run.queue import Queue
            from ltsearch.run.runner import ray_session, run
            from ltsearch.run.wishes import Listening
            from ltsearch.show.progress import Progress

            sweep_folder = store.sweep_folder(loaded.sweep)
            terms = joining.Terms(sweep_folder, work.data, root)
            terms.look()
            session.enter_context(ray_session(None, logs=ray_logs))
            plan = packs.resolve(plan, work, store, nodes.alive({}), print)
            resources = plan.loaded.spec.resources
            capacity = Capacity(resources, lambda: nodes.alive(resources.labels))
            sources.remember(store, work.data, root)
            total, done = outstanding.count(plan, None, store)
            progress = Progress(loaded.sweep, total, done)
            queue = Queue(plan, store, None, [progress], work.stale, claims, helps=True)
            capacity.say = queue.say = progress.say
            print(
                f"{loaded.sweep}: joined; {total - done} of {total} cells are left, {capacity()} at once here",
                flush=True,
            )
            try:
                with progress:
                    listening = Listening(sweep_folder, queue, None, progress.say)

                    def each_round() -> None:
                        terms.look()
                        if terms.met:
                            listening.look()

                    run(
                        queue,
                        resources,
                        capacity,
                        work.data,
                        collect(),
                        logs=ray_logs,
                        functions=functions,
                        each_round=each_round,
                    )
            finally:
                session.close()
                claims.release_all()
            print(f"{loaded.sweep}: {progress.finished_here} cells trained here; nothing is left that nobody trains")
            failed = [one for one in queue.ended.values() if one.outcome.status not in (Status.FINISHED, Status.PRUNED)]
            for one in failed:
                print(f"{one.outcome.status}: {one.label} ({one.cell}): {one.outcome.error}", file=sys.stderr)
            return NO_RESULT if failed else DONE
    finally:
        if isinstance(folder, Path):
            with suppress(OSError):  # nothing is kept of who has left
                (folder / "lock").unlink()
                folder.rmdir()
