"""``python -m ltsearch.sweep SPEC``: run a study. This file is the whole of a sweep, from top to bottom."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ltsearch import preflight
from ltsearch.cluster import ray_cluster
from ltsearch.plan import adaptive, placement, sources
from ltsearch.plan.costs import costs
from ltsearch.plan.layout import Plan, make_plan
from ltsearch.run import outstanding
from ltsearch.show.overview import overview
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.store.locks import sweep_lock
from ltsearch.store.permissions import DENIED, denied
from ltsearch.store.provenance import ROOT, collect
from ltsearch.store.records import PLAN_ARTIFACT, SEARCH_ARTIFACT, PlanRecord, Status
from ltsearch.store.retries import StorageError
from ltsearch.study import overrides
from ltsearch.study.spec import Loaded, Resources, load
from trainables.errors import UserError
from trainables.files import write_text

if TYPE_CHECKING:
    from ltsearch.run.nodes import Capacity
    from ltsearch.tracking.writer import Tracker
    from trainables.data.source import Source


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 done but some cells failed, 2 wrong input, 130 interrupted."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        preflight.words(args)
        check_packages()
        if args.costs:
            print(costs(make_plan(load_spec(args)), sources.data_root(args.data_root)))
            return 0
        target = ray_cluster.elsewhere(args.cluster, args.address, args.local)
        args.address = args.address or (None if args.local else ray_cluster.head_address())
        if args.plan:
            return show_plan(args, target)
        if target is not None:
            from ltsearch.cluster import remote

            return remote.run(target, args, parser().parse_args([str(args.spec)]), load_spec(args))
        return sweep(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads the plan has seen enough: `--plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in DENIED:
            print(f"error: {denied(error, 'a file')}; nothing finished is lost", file=sys.stderr)
            return 2
        if error.errno not in NO_SPACE and not isinstance(error, StorageError):
            raise
        print(f"error: {error}; make room: nothing finished is lost, the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; nothing finished is lost, the same command goes on", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m ltsearch.sweep", description="Run a study: ablation, search, report.")
    p.add_argument("spec", type=Path, help="the study, a YAML file")
    p.add_argument("--profile", help="overrides of the study that it names itself, such as tiny")
    p.add_argument("--plan", action="store_true", help="print what would run, and stop")
    p.add_argument(
        "--costs", action="store_true", help="print what every row costs, counted without training, and stop"
    )
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study")
    p.add_argument("--seeds", help="a number of seeds, or a list: 0,1,2")
    p.add_argument("--cluster", type=Path, metavar="FILE", help="run there (default: cluster.yaml here, if it is up)")
    p.add_argument("--local", action="store_true", help="stay on this machine, whatever cluster is up")
    p.add_argument("--address", help="a Ray cluster to join (default: the one whose head this is): auto, or host:6379")
    places = f"a folder or s3://… (default: {STORAGE_VARIABLE} or ./store)"
    p.add_argument("--storage", metavar="PLACE", help=f"where cells live: {places}")
    p.add_argument("--data-root", help="where data sets lie (default: LTSEARCH_DATA or ./data)")
    p.add_argument("--tracking-uri", help="MLflow (default: the study, MLFLOW_TRACKING_URI or sqlite:///mlflow.db)")
    p.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once")
    p.add_argument("--fresh", action="store_true", help="forget this study's cells and search, and run all of it again")
    p.add_argument("--retry", action="store_true", help="run cells again that diverged or ran out of memory")
    p.add_argument("--ray-logs", action="store_true", help="show Ray's own messages")
    return p


def show_plan(args: argparse.Namespace, target: ray_cluster.Cluster | None) -> int:
    """``--plan``; ``target`` is the cluster that the sweep would be sent to. A cluster is asked what it has, not joined."""
    plan = make_plan(load_spec(args))
    store = CellStore(storage_root(args.storage))
    root = sources.data_root(args.data_root)
    preflight.places(plan, store, root, args.tracking_uri)
    where = "this machine"
    nodes: Sequence[placement.Node] | None = placement.this_machine()
    if target is not None:
        where, nodes = f"cluster {target.name}", None
    elif args.address:
        where, nodes = "the cluster", ray_cluster.look(args.address)[1]
    print(overview(plan, store, sources.stale_check(store, root), nodes, where))
    for bad in store.bad.values():
        print(f"{bad}; it does not count: the cell is trained again, and the file is kept beside it")
    for name in sources.unread(outstanding.settled_configs(plan, None, store), store, root):
        print(f"{name}: its files are new here, or have changed: whether cells are stale is known once they are read")
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Load, plan, run what is missing, report."""
    plan = make_plan(load_spec(args))
    spec = plan.loaded.spec
    store = CellStore(storage_root(args.storage))
    root = sources.data_root(args.data_root)

    from ltsearch.tracking import server, writer

    # Everything that can be wrong with the input is found here, before anything is written.
    uri = preflight.places(plan, store, root, args.tracking_uri)
    if not args.address:
        placement.check(spec.resources, placement.this_machine())
    preflight.access(plan, store, uri)
    args.address, where = ray_cluster.join(args.address) if args.address else (None, ray_cluster.here())
    print(where, flush=True)
    before = None if args.fresh else outstanding.existing_study(plan, store, root)
    data = sources.read_unread(outstanding.settled_configs(plan, before, store), store, root, say=print)
    unwanted = outstanding.unwanted(args.fresh, args.retry, sources.stale_check(store, root, data))
    work = outstanding.outstanding(plan, before, store, unwanted)
    placement.check_workers(spec.resources, work)
    preflight.access_to_cells(store, work)
    data = sources.read(work, root, print, data, outstanding.called(plan))
    outstanding.check_metrics(plan, data)
    if not args.address:
        preflight.warn_of_emulation(work, spec.resources)
    with sweep_lock(store.sweep_folder(plan.loaded.sweep)), ExitStack() as session:
        capacity = join(args, spec.resources, store, session) if work else None
        tracker = writer.Tracker(uri, server.experiment_name(spec), plan.loaded.sweep, store, warn=print)
        if args.fresh:
            forget(plan, store, root)
        sources.remember(store, data, root)
        return run_sweep(args, plan, store, data, capacity, tracker, session)


def join(args: argparse.Namespace, resources: Resources, store: CellStore, session: ExitStack) -> Capacity:
    """Start Ray here or join the cluster, until ``session`` is closed; raises ``UserError`` if the sweep cannot run there."""
    from ltsearch.run import nodes
    from ltsearch.run.runner import ray_session

    session.enter_context(ray_session(args.address, logs=args.ray_logs))
    if args.address:
        nodes.check(store)
    return nodes.Capacity(resources, nodes.alive, nodes.growable() if args.address else None)


def run_sweep(
    args: argparse.Namespace,
    plan: Plan,
    store: CellStore,
    data: dict[sources.SourceKey, Source],
    capacity: Capacity | None,
    tracker: Tracker,
    session: ExitStack,
) -> int:
    """The sweep itself, with the lock held; ``capacity`` is None if nothing is left to run. Closes the ``session``."""
    from ltsearch.run import nodes
    from ltsearch.run.queue import Queue
    from ltsearch.run.runner import run
    from ltsearch.search.optuna_study import SearchStudy
    from ltsearch.show.progress import Progress
    from ltsearch.show.status import StatusFile
    from ltsearch.tracking import extras
    from ltsearch.tracking.server import shown

    spec, folder = plan.loaded.spec, store.sweep_folder(plan.loaded.sweep)
    root = sources.data_root(args.data_root)
    uri = tracker.uri
    stale = sources.stale_check(store, root)
    study = None
    if plan.search_base is not None:
        content = sources.content(store, plan.search_base, root) or ""
        study = SearchStudy(plan, folder, content)
    unwanted = outstanding.unwanted(False, args.retry, stale)
    work = outstanding.outstanding(plan, study, store, unwanted)
    data = sources.read(work, root, print, data, outstanding.called(plan))
    for cell in [*plan.cells, *outstanding.confirmations(study)]:
        record = store.read(cell.id)
        if record is not None and unwanted(record):
            if stale(record):
                print(f"cell {cell.id}: its data set has another content than when it ran; it is run again")
            store.clear(cell.id)

    provenance = collect()
    shown_plan = plan_record(args, plan, provenance, store)
    write_text(folder / PLAN_ARTIFACT, shown_plan.model_dump_json(indent=1))
    tracker.open(shown_plan)
    total, done = outstanding.count(plan, study, store)
    progress = Progress(plan.loaded.sweep, total, done)
    status_file = StatusFile(folder, plan.loaded.sweep, total, done)
    queue = Queue(plan, store, study, [tracker, progress, status_file], stale)
    tracker.rebuild(outstanding.recorded_cells(plan, study, store))
    status = Status.INTERRUPTED
    try:
        if work and capacity is not None:
            capacity.tell(status_file.nodes)
            print(
                f"{plan.loaded.sweep}: {total - done} of {total} cells to run, {capacity()} at once; MLflow: {shown(uri)}"
            )
            capacity.say = queue.say = progress.say
            terms = nodes.Terms(sweep_lock(folder).path, nodes.versions()) if args.address else None
            growing = capacity() if capacity.more else 1
            with progress:
                run(
                    queue,
                    spec.resources,
                    capacity,
                    data,
                    provenance,
                    logs=args.ray_logs,
                    terms=terms,
                    pending=growing,
                )
        else:
            print(f"{plan.loaded.sweep}: all {total} cells are finished, nothing to run; MLflow: {shown(uri)}")
        status = Status.FINISHED
    finally:  # MLflow learns how it ended, whatever happened
        session.close()
        status_file.end()
        tracker.interrupt(queue.running.values())
        search, shown_plan = study.record() if study is not None else None, plan_record(args, plan, provenance, store)
        with suppress(OSError):  # a report of an earlier end; the same command writes both again
            write_text(folder / PLAN_ARTIFACT, shown_plan.model_dump_json(indent=1))
            if search is not None:
                write_text(folder / SEARCH_ARTIFACT, search.model_dump_json(indent=1))
        tracker.close(status, outstanding.all_cells(plan, study), shown_plan, search)

    failures = outstanding.failures(plan, study, store, queue.ended)
    for line in failures:
        print(line, file=sys.stderr)
    try:
        folder = report(plan, args.storage, uri)
        extras.attach(uri, tracker.parent, folder, extras.headlines(shown_plan, store.read))
    except UserError as error:
        if not failures:
            raise
        print(f"no report: {error}", file=sys.stderr)
    return 1 if failures else 0


# -- before and after ----------------------------------------------------------------------------------------------------


def plan_record(args: argparse.Namespace, plan: Plan, provenance: dict[str, str], store: CellStore) -> PlanRecord:
    """``plan.json``: what the report is to show, with the seeds that every row has been given so far."""
    spec, options = plan.loaded.spec, plan.loaded.spec.report
    rows = plan.with_seeds(adaptive.seeds_now(plan, store.read)).rows
    return PlanRecord(
        sweep=plan.loaded.sweep,
        name=spec.name,
        profile=plan.loaded.profile,
        question=spec.question,
        command=command(args),
        rows=[row.record() for row in rows],
        reference=plan.reference,
        has_search=spec.search is not None,
        spec_file=Path(plan.loaded.file).name,
        components=list(spec.ablation.components) if spec.ablation else [],
        provenance=provenance,
        first_seeds=adaptive.first(plan),
        seeds_rule=adaptive.describe(plan, store.read),
        title=options.title,
        notes=options.notes,
        figures=options.figures,
        published=options.published,
        paired_tests=options.paired_tests,
        claims=options.claims,
    )


def command(args: argparse.Namespace) -> str:
    """The command as a reader would type it; what only says where things go on this machine is left out."""
    words = ["python -m ltsearch.sweep", str(args.spec) if not args.spec.is_absolute() else args.spec.name]
    words += [f"--profile {args.profile}"] if args.profile else []
    told = [a for a in args.set if not a.startswith(("report.", "tracking."))]
    words += [f"--set {shlex.quote(assignment)}" for assignment in told]
    words += [f"--seeds {args.seeds}"] if args.seeds else []
    return " ".join(words)


def load_spec(args: argparse.Namespace) -> Loaded:
    """The study with what the command line says on top; raises ``UserError``."""
    assignments = [overrides.parse_assignment(text) for text in args.set]
    if args.max_concurrent is not None:
        if args.max_concurrent < 1:
            raise UserError(f"--max-concurrent {args.max_concurrent}: must be >= 1")
        assignments.append({"resources": {"max_concurrent": args.max_concurrent}})
    return load(args.spec, args.profile, assignments, parse_seeds(args.seeds))


def parse_seeds(text: str | None) -> int | list[int] | None:
    """``3`` or ``0,1,2``; raises ``UserError``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError:
        raise UserError(f"--seeds {text!r}: a number of seeds such as 3, or a list such as 0,1,2") from None


def forget(plan: Plan, store: CellStore, root: Path) -> None:
    """``--fresh``: this study's cells and its search. Cells of other studies stay, unless they are the same."""
    folder, study, tried = store.sweep_folder(plan.loaded.sweep), None, []
    try:
        study = outstanding.existing_study(plan, store, root)
    except UserError:  # a journal that is damaged: the trials that it still tells of
        from ltsearch.search import journal, optuna_study

        tried = journal.attributes(folder, optuna_study.CELL)
    for cell_id in [*outstanding.all_cells(plan, study), *tried]:
        store.clear(cell_id)
    if plan.search_base is not None:
        from ltsearch.search import journal

        journal.forget(folder)
        (folder / SEARCH_ARTIFACT).unlink(missing_ok=True)


def report(plan: Plan, storage: str | None, uri: str) -> Path:
    """Write the report; its folder. ``analysis`` is loaded by name: nothing here depends on it."""
    reports = import_module("analysis.report")
    folder = Path(plan.loaded.spec.report.folder) / plan.loaded.sweep
    try:
        source = reports.find_source(plan.loaded.sweep, storage, uri)
        path = reports.write_report(plan.loaded.sweep, source, folder)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {folder} ({error.strerror or error}); all trials are kept: make room or name "
            "another folder with --set report.folder=…, and type the command again"
        ) from None
    print(f"report: {path}")
    return folder


def check_packages() -> None:
    """The three packages have common names: raises ``UserError`` if one comes from somewhere else."""
    for name in ("trainables", "analysis"):
        found = find_spec(name)
        where = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if where != ROOT:
            raise UserError(
                f"package {name!r} comes from {where or 'nowhere'}, but ltsearch from {ROOT}; run from {ROOT} and remove the "
                "other from PYTHONPATH, or uninstall it"
            )


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
