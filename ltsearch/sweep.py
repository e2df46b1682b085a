"""``python -m ltsearch.sweep SPEC``: run a study. This file is the whole of a sweep, from top to bottom."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ltsearch import preflight
from ltsearch.cluster import ray_cluster
from ltsearch.exit_codes import DONE, MEANING, NO_RESULT, exit_code
from ltsearch.plan import adaptive, placement, sources
from ltsearch.plan.cells import Plan
from ltsearch.plan.costs import costs
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.show.overview import overview
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.store.claims import Claims
from ltsearch.store.locks import sweep_lock
from ltsearch.store.provenance import collect
from ltsearch.store.records import PLAN_ARTIFACT, SEARCH_ARTIFACT, PlanRecord, SearchRecord, Status
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.spec import Loaded
from trainables.errors import UserError
from trainables.files import Location, write_text

if TYPE_CHECKING:
    from ltsearch.run.capacity import Capacity
    from ltsearch.run.queue import Queue
    from ltsearch.tracking.writer import Tracker
    from trainables.custom import Trainable


def main(argv: list[str] | None = None) -> int:
    """The command; an exit code (``exit_codes``)."""
    args = parser().parse_args(argv)
    choice, options = typed(args)
    if args.slurm is not None:
        how = {"plan": args.plan, "dry_run": args.dry_run, "price": args.costs}
        return exit_code(lambda: to_slurm(args.slurm, choice, options, **how))
    if args.dry_run:
        return exit_code(lambda: refuse("--dry-run writes what --slurm would submit: name a site's file with --slurm"))
    return exit_code(lambda: command(choice, options, plan=args.plan, price=args.costs))


def typed(args: argparse.Namespace) -> tuple[Choice, RunOptions]:
    """What the command line says: no other module sees its words."""
    words = vars(args) | {"set": tuple(args.set)}
    choice = Choice(**{field.name: words[field.name] for field in fields(Choice)})
    return choice, RunOptions(**{field.name: words[field.name] for field in fields(RunOptions)})


def parser(prog: str = "python -m ltsearch.sweep", *, add_help: bool = True) -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog=prog,
        description="Run a study: ablation, search, report.",
        epilog=f"Exit codes: {MEANING}.",
        allow_abbrev=False,
        add_help=add_help,
    )
    what = p.add_argument_group("the study")
    what.add_argument("spec", type=Path, help="the study, a YAML file")
    what.add_argument("--profile", help="overrides of the study that it names itself, such as tiny")
    what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study")
    what.add_argument("--seeds", help="a number of seeds, or a list: 0,1,2")
    look = p.add_argument_group("look, and run nothing")
    look.add_argument("--plan", action="store_true", help="print what would run, and stop")
    counted = "print what every row costs, counted without training, and stop"
    look.add_argument("--costs", action="store_true", help=counted)
    where = p.add_argument_group("where it runs")
    here = "run there: a file of `ray up`, or http://… of a dashboard (default: cluster.yaml here, if it is up)"
    where.add_argument("--cluster", metavar="WHERE", help=here)
    where.add_argument("--local", action="store_true", help="stay on this machine, whatever cluster is up")
    joined = "a Ray cluster to join (default: the one whose head this is): auto, or host:6379"
    where.add_argument("--address", help=joined)
    where.add_argument("--slurm", type=Path, metavar="FILE", help="submit it to Slurm, as this file says")
    where.add_argument(
        "--dry-run", action="store_true", help="with --slurm: write the job's script, and do not submit it"
    )
    where.add_argument("--max-concurrent", type=int, metavar="N", help="trials at once")
    places = p.add_argument_group("where things lie")
    cells = f"where cells live: a folder or s3://… (default: {STORAGE_VARIABLE} or ./store)"
    places.add_argument("--storage", metavar="PLACE", help=cells)
    places.add_argument("--data-root", help="where data sets lie (default: LTSEARCH_DATA or ./data)")
    mlflow = "MLflow (default: the study, MLFLOW_TRACKING_URI or sqlite:///mlflow.db)"
    places.add_argument("--tracking-uri", help=mlflow)
    again = p.add_argument_group("what is run again")
    forgotten = "forget this study's cells and search, and run all of it again"
    again.add_argument("--fresh", action="store_true", help=forgotten)
    again.add_argument("--retry", action="store_true", help="run cells again that diverged or ran out of memory")
    p.add_argument("--ray-logs", action="store_true", help="show Ray's own messages")
    return p


def command(choice: Choice, options: RunOptions, *, plan: bool = False, price: bool = False) -> int:
    """Print the plan or the costs, send the sweep to a cluster, or run it here; raises what ``exit_code`` tells."""
    preflight.words(choice, options)
    preflight.packages()
    if price:
        print(costs(make_plan(choice.load()), sources.data_root(options.data_root)))
        return DONE
    target = ray_cluster.elsewhere(options.cluster, options.address, options.local)
    if not options.address and not options.local:
        options = replace(options, address=ray_cluster.head_address())
    if plan:
        print("\n".join(the_plan(make_plan(choice.load()), options, target)))
        return DONE
    if target is not None:
        from ltsearch.cluster import ray_jobs

        with terminable():
            return ray_jobs.run(target, choice, options, make_plan(choice.load()).loaded)
    with terminable():
        return sweep(choice.load(), options)


def to_slurm(file: Path, choice: Choice, options: RunOptions, *, plan: bool, dry_run: bool, price: bool) -> int:
    """Submit the sweep to Slurm, or only print or write what would be; raises ``UserError`` before anything is written."""
    from ltsearch.cluster import slurm

    preflight.words(choice, options)
    if options.address or options.cluster or options.local or price:
        raise UserError("--slurm runs the sweep in a job of its own: leave --address, --cluster, --local, --costs out")
    loaded, site = choice.load(), slurm.read_site(file)
    placement.check_here(loaded.spec.resources, [site.node] * (site.nodes if site.mode == "allocation" else 1))
    made, store = make_plan(loaded), CellStore(storage_root(options.storage))
    preflight.places(made, store, sources.data_root(options.data_root), options.tracking_uri)
    if plan:
        print(slurm.script(site, loaded.sweep, (slurm.FOLDER / loaded.sweep).absolute()))
    elif dry_run:
        print(f"{slurm.write(file, site, loaded.sweep, choice, options)}: written; `sbatch` submits it")
    else:
        print(slurm.submit(file, site, loaded.sweep, choice, options))
    return DONE


def refuse(why: str) -> int:
    """Raises ``UserError``."""
    raise UserError(why)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM is Ctrl-C, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def the_plan(plan: Plan, options: RunOptions, target: ray_cluster.Cluster | None = None) -> list[str]:
    """What would run, line by line, and where; ``target`` is the cluster that it would be sent to.

    A cluster is asked what it has, not joined.
    """
    store = CellStore(storage_root(options.storage))
    root = sources.data_root(options.data_root)
    preflight.places(plan, store, root, options.tracking_uri)
    store.recall_heads(plan.loaded.sweep)
    where = "this machine"
    nodes: Sequence[placement.Node] | None = placement.this_machine()
    if target is not None:
        where, nodes = f"cluster {target.name}", None
    elif options.address:
        where, nodes = "the cluster", ray_cluster.look(options.address)[1]
    told = [overview(plan, store, sources.stale_check(store, root), nodes, where)]
    for bad in store.bad.values():
        told.append(f"{bad}; it does not count: the cell is trained again, and the file is kept beside it")
    new = sources.unread(outstanding.settled_configs(plan, None, store), store, root)
    for name in dict.fromkeys(data.path or data.name for data in new):
        told.append(
            f"{name}: its files are new here, or have changed: whether cells are stale is known once they are read"
        )
    return told


def sweep(loaded: Loaded, options: RunOptions, given: Mapping[str, Trainable] | None = None) -> int:
    """Plan, run what is missing, report; an exit code. Raises ``UserError`` for wrong input, before anything is written.

    ``given``: trainables of the user's own by the name that the study has for them; others are imported.
    """
    plan = make_plan(loaded)
    spec = loaded.spec
    store = CellStore(storage_root(options.storage))
    root = sources.data_root(options.data_root)

    from ltsearch.run import joining, wishes
    from ltsearch.tracking import extras, server
    from ltsearch.tracking.writer import Tracker

    # Everything that can be wrong with the input is found here.
    uri = preflight.places(plan, store, root, options.tracking_uri)
    if not options.address:
        placement.check_here(spec.resources, placement.this_machine())
    preflight.access(plan, store, uri)
    address, where = ray_cluster.join(options.address) if options.address else (None, ray_cluster.here())
    options = replace(options, address=address)
    print(where, flush=True)

    with sweep_lock(store.sweep_folder(loaded.sweep)) as lock, ExitStack() as session:
        claims = Claims(store, lock)
        wishes.forget(store.sweep_folder(loaded.sweep))
        work = outstanding.look(plan, store, root, fresh=options.fresh, retry=options.retry, say=print)
        preflight.work(plan, store, work.configs)
        functions = preflight.functions(work.configs, given or {})
        outstanding.read_data(plan, work, root, say=print)
        if not address:
            preflight.warn_of_emulation(work.configs, spec.resources)
        capacity = None
        if work.configs:
            plan, capacity = join(options, plan, work, store, session)

        # From here on things are written.
        tracker = Tracker(uri, server.experiment_name(spec), loaded.sweep, store, warn=print)
        if options.fresh:
            outstanding.forget(plan, store, root, claims, say=print)
        sources.remember(store, work.data, root)
        outstanding.begin(plan, work, store, root, print, claims)
        joining.write(store.sweep_folder(loaded.sweep), lock.mark, work.data)
        queue, shown_plan = drive(plan, work, store, tracker, capacity, session, options, functions, claims)

        store.keep_heads(loaded.sweep, outstanding.all_cells(plan, work.study))
        failures = outstanding.failures(plan, work.study, store, queue.ended)
        for line in failures:
            print(line, file=sys.stderr)
        try:
            folder = report(plan, options.storage, uri)
            extras.attach(uri, tracker.parent, folder, extras.headlines(shown_plan, store.read))
        except UserError as error:
            if not failures:
                raise
            print(f"no report: {error}", file=sys.stderr)
        return NO_RESULT if failures else DONE


def join(
    options: RunOptions, plan: Plan, work: outstanding.Work, store: CellStore, session: ExitStack
) -> tuple[Plan, Capacity]:
    """Start Ray here or join the cluster, until ``session`` is closed; the plan with what its trials hold.

    Raises ``UserError`` if the sweep cannot run there.
    """
    from ltsearch.run import nodes, packs, sharing
    from ltsearch.run.capacity import Capacity
    from ltsearch.run.runner import ray_session

    session.enter_context(ray_session(options.address, logs=options.ray_logs))
    silent = nodes.check(store) if options.address else {}
    growing = nodes.growable() if options.address else None
    shared = sharing.look if options.address else None
    labels = plan.loaded.spec.resources.labels
    there = {node: of for node, of in nodes.alive(labels).items() if node not in silent}
    plan = packs.resolve(plan, work, store, there, print, growing)
    return plan, Capacity(plan.loaded.spec.resources, lambda: nodes.alive(labels), growing, silent, shared)


def drive(
    plan: Plan,
    work: outstanding.Work,
    store: CellStore,
    tracker: Tracker,
    capacity: Capacity | None,
    session: ExitStack,
    options: RunOptions,
    functions: Mapping[str, Trainable],
    claims: Claims,
) -> tuple[Queue, PlanRecord]:
    """Run the queue to its end, with MLflow, progress and status listening; ``capacity`` is None if nothing is left to run.

    Closes the ``session``, whatever happens, before MLflow is told how it ended.
    """
    from ltsearch.run import nodes
    from ltsearch.run.queue import Queue
    from ltsearch.run.runner import run
    from ltsearch.run.wishes import Listening
    from ltsearch.show.progress import Progress
    from ltsearch.show.status import StatusFile
    from ltsearch.tracking.server import shown

    sweep, study, folder = plan.loaded.sweep, work.study, store.sweep_folder(plan.loaded.sweep)
    provenance = collect()
    write_record(folder, PLAN_ARTIFACT, shown_plan := plan_record(plan, provenance, store))
    tracker.open(shown_plan)
    total, done = outstanding.count(plan, study, store)
    progress = Progress(sweep, total, done)
    status_file = StatusFile(folder, sweep, total, done)
    queue = Queue(plan, store, study, [tracker, progress, status_file], work.stale, claims)
    tracker.rebuild(outstanding.recorded_cells(plan, study, store))
    status = Status.INTERRUPTED
    try:
        if capacity is not None:
            capacity.tell(status_file.nodes)
            print(
                f"{sweep}: {total - done} of {total} cells to run, {capacity()} at once; MLflow: {shown(tracker.uri)}"
            )
            capacity.say = queue.say = progress.say
            terms = nodes.Terms(sweep_lock(folder).path, nodes.versions()) if options.address else None
            with progress:
                run(
                    queue,
                    plan.loaded.spec.resources,
                    capacity,
                    work.data,
                    provenance,
                    logs=options.ray_logs,
                    terms=terms,
                    functions=functions,
                    silent=capacity.silent,
                    each_round=Listening(folder, queue, capacity, progress.say).look,
                )
        else:
            print(f"{sweep}: all {total} cells are finished, nothing to run; MLflow: {shown(tracker.uri)}")
        status = Status.FINISHED
    finally:
        session.close()
        claims.release_all()
        status_file.end()
        tracker.interrupt(queue.running.values())
        search, shown_plan = study.record() if study is not None else None, plan_record(plan, provenance, store)
        with suppress(OSError):  # a report of an earlier end; the same command writes both again
            write_record(folder, PLAN_ARTIFACT, shown_plan)
            if search is not None:
                write_record(folder, SEARCH_ARTIFACT, search)
        tracker.close(status, outstanding.all_cells(plan, study), shown_plan, search)
    return queue, shown_plan


# -- before and after ----------------------------------------------------------------------------------------------------


def plan_record(plan: Plan, provenance: dict[str, str], store: CellStore) -> PlanRecord:
    """``plan.json``: what the report is to show, with the seeds that every row has been given so far."""
    spec, options = plan.loaded.spec, plan.loaded.spec.report
    rows = plan.with_seeds(adaptive.seeds_now(plan, store.read)).rows
    return PlanRecord(
        sweep=plan.loaded.sweep,
        name=spec.name,
        profile=plan.loaded.profile,
        question=spec.question,
        command=plan.loaded.command,
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


def write_record(folder: Location, name: str, record: PlanRecord | SearchRecord) -> None:
    """``plan.json`` or ``search.json`` of a sweep."""
    write_text(folder / name, record.model_dump_json(indent=1))


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


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a batch system sends several, and the end is to be in order
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
