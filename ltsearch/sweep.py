"""``python -m ltsearch.sweep SPEC``: run a study. This file is the whole of a sweep, from top to bottom."""

from __future__ import annotations

import argparse
import errno
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ltsearch import adaptive, cluster, overrides, placement, sources
from ltsearch.lock import sweep_lock
from ltsearch.overview import overview, state
from ltsearch.plan import Plan, make_plan, search_data, teacher_label
from ltsearch.provenance import collect
from ltsearch.records import SEARCH_ARTIFACT, SETTLED, CellRecord, PlanRecord, Status
from ltsearch.spec import Loaded, Resources, load, seed_list
from ltsearch.store import STORAGE_VARIABLE, CellStore, storage_root
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.files import write_text

if TYPE_CHECKING:
    from ltsearch.nodes import Capacity
    from ltsearch.search import SearchStudy
    from trainables.data import Source


NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 done but some cells failed, 2 wrong input, 130 interrupted."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _as_interrupt)
    try:
        check_packages()
        target = cluster.elsewhere(args.cluster, args.address, args.local)
        args.address = args.address or (None if args.local else cluster.head_address())
        if args.plan:
            return show_plan(args, target)
        if target is not None:
            from ltsearch import remote

            return remote.run(target, args, parser().parse_args([str(args.spec)]), load_spec(args))
        return sweep(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NO_SPACE:
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
    p.add_argument("--ray-logs", action="store_true", help="show Ray's own messages")
    return p


def show_plan(args: argparse.Namespace, target: cluster.Cluster | None) -> int:
    """``--plan``; ``target`` is the cluster that the sweep would be sent to. A cluster is asked what it has, not joined."""
    plan = make_plan(load_spec(args))
    check_published(plan)
    store = CellStore(storage_root(args.storage))
    stale = sources.stale_check(store, sources.data_root(args.data_root))
    where = "this machine"
    nodes: Sequence[placement.Node] | None = placement.this_machine()
    if target is not None:
        where, nodes = f"cluster {target.name}", None
    elif args.address:
        where, nodes = "the cluster", cluster.look(args.address)[1]
    print(overview(plan, store, stale, nodes, where))
    return 0


def sweep(args: argparse.Namespace) -> int:
    """Load, plan, run what is missing, report."""
    plan = make_plan(load_spec(args))
    spec = plan.loaded.spec
    check_published(plan)
    store = CellStore(storage_root(args.storage))
    root = sources.data_root(args.data_root)

    from ltsearch import tracking

    # Everything that can be wrong with the input is found here, before anything is written.
    if not args.address:
        placement.check(spec.resources, placement.this_machine())
    store.check_writable()
    tracking.check(tracking.resolve_uri(args.tracking_uri, spec.tracking.uri))
    folder, stale = store.sweep_folder(plan.loaded.sweep), sources.stale_check(store, root)
    work = outstanding(plan, None if args.fresh else existing_study(plan, store, root), store, stale, args.fresh)
    placement.check_workers(spec.resources, work)
    args.address, where = cluster.join(args.address) if args.address else (None, cluster.here())
    print(where, flush=True)
    data = sources.read(work, root, say=print)
    with sweep_lock(folder), ExitStack() as session:
        capacity = join(args, spec.resources, store, session) if work else None
        if args.fresh:
            forget(plan, store, existing_study(plan, store, root))
        sources.remember(store, work, data, root)
        return run_sweep(args, plan, store, data, capacity, session)


def join(args: argparse.Namespace, resources: Resources, store: CellStore, session: ExitStack) -> Capacity:
    """Start Ray here or join the cluster, until ``session`` is closed; raises ``UserError`` if the sweep cannot run there."""
    from ltsearch import nodes
    from ltsearch.runner import ray_session

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
    session: ExitStack,
) -> int:
    """The sweep itself, with the lock held; ``capacity`` is None if nothing is left to run. Closes the ``session``."""
    from ltsearch.progress import Progress
    from ltsearch.queue import Queue
    from ltsearch.runner import run
    from ltsearch.search import SearchStudy
    from ltsearch.status import StatusFile
    from ltsearch.tracking import Tracker, resolve_uri, shown

    spec = plan.loaded.spec
    root = sources.data_root(args.data_root)
    uri = resolve_uri(args.tracking_uri, spec.tracking.uri)
    tracker = Tracker(uri, spec.tracking.experiment or spec.name, plan.loaded.sweep, store, warn=print)
    stale = sources.stale_check(store, root)
    study = None
    if plan.search_base is not None:
        content = sources.content(store, plan.search_base, root) or ""
        study = SearchStudy(plan, store.sweep_folder(plan.loaded.sweep), content)
    work = outstanding(plan, study, store, stale)
    data = sources.read(work, root, say=print, known=data)
    for cell in plan.cells:
        if state(cell.id, store, stale) == "stale":
            print(f"cell {cell.id}: its data set has another content than when it ran; it is run again")
            store.clear(cell.id)

    provenance = collect()
    tracker.open(plan_record(args, plan, provenance, store))
    total, done = count(plan, study, store)
    progress = Progress(plan.loaded.sweep, total, done)
    status_file = StatusFile(store.sweep_folder(plan.loaded.sweep), plan.loaded.sweep, total, done)
    queue = Queue(plan, store, study, [tracker, progress, status_file], stale)
    tracker.rebuild(settled_cells(plan, study, store))
    status = Status.INTERRUPTED
    try:
        if work and capacity is not None:
            capacity.tell(status_file.nodes)
            print(
                f"{plan.loaded.sweep}: {total - done} of {total} cells to run, {capacity()} at once; MLflow: {shown(uri)}"
            )
            with progress:
                run(queue, spec.resources, capacity, data, provenance, logs=args.ray_logs)
        else:
            print(f"{plan.loaded.sweep}: all {total} cells are finished, nothing to run; MLflow: {shown(uri)}")
        status = Status.FINISHED
    finally:  # MLflow learns how it ended, whatever happened
        session.close()
        status_file.end()
        tracker.interrupt(queue.running.values())
        search = study.record() if study is not None else None
        if search is not None:
            path = store.sweep_folder(plan.loaded.sweep) / SEARCH_ARTIFACT
            write_text(path, search.model_dump_json(indent=1))
        tracker.close(status, all_cells(plan, study), plan_record(args, plan, provenance, store), search)

    failed = [(job, outcome) for job, outcome in queue.ended if outcome.status not in (Status.FINISHED, Status.PRUNED)]
    for job, outcome in failed:
        print(f"{outcome.status}: {job.label} ({job.cell.id}): {outcome.error}", file=sys.stderr)
    try:
        report(plan, uri)
    except UserError as error:
        if not failed:
            raise
        print(f"no report: {error}", file=sys.stderr)
    return 1 if failed else 0


# -- what there is to do -------------------------------------------------------------------------------------------------


def outstanding(
    plan: Plan,
    study: SearchStudy | None,
    store: CellStore,
    stale: Callable[[CellRecord], bool],
    fresh: bool = False,
) -> list[TrialConfig]:
    """Configurations that are still to be trained; of a search that goes on, one for every data set it may use."""

    def done(cell: str) -> bool:
        record = None if fresh else store.read(cell)
        return record is not None and record.status in SETTLED and not stale(record)

    planned = plan.with_seeds(adaptive.seeds_now(plan, lambda cell: store.read(cell) if done(cell) else None))
    left = [cell.config for cell in planned.cells if not done(cell.id)]
    if plan.search_base is not None:
        confirmations = [cell for _, cells in study.winners() for cell in cells] if study is not None else []
        if study is None or not study.is_over() or not all(done(cell.id) for cell in confirmations):
            left += [*search_data(plan), *(cell.config for cell in confirmations)]
    return left


def existing_study(plan: Plan, store: CellStore, root: Path) -> SearchStudy | None:
    """The search as far as it has come on the data as it lies there; None if it has not begun."""
    if plan.search_base is None:
        return None
    from ltsearch import journal
    from ltsearch.search import SearchStudy

    folder, content = store.sweep_folder(plan.loaded.sweep), sources.content(store, plan.search_base, root)
    return SearchStudy(plan, folder, content) if content and journal.exists(folder) else None


def is_settled(cell: str, store: CellStore) -> bool:
    """Is there nothing more to be done for this cell?"""
    record = store.read(cell)
    return record is not None and record.status in SETTLED


def count(plan: Plan, study: SearchStudy | None, store: CellStore) -> tuple[int, int]:
    """How many cells the sweep has, and how many of them are done; of a search, as many as its budget allows."""
    cells = plan.with_seeds(adaptive.seeds_now(plan, store.read)).cells
    total, done = len(cells), sum(is_settled(cell.id, store) for cell in cells)
    search = plan.loaded.spec.search
    if study is not None and search is not None:
        over = study.is_over()
        confirmations = {cell.id for _, winners in study.winners() for cell in winners} - {cell.id for cell in cells}
        asked = search.confirm.top_k * len(seed_list(search.confirm.seeds)) if search.confirm else 0
        total += study.ended() if over else search.trials
        total += len(confirmations) if over else asked
        done += study.ended() + (sum(is_settled(cell, store) for cell in confirmations) if over else 0)
    return total, done


def all_cells(plan: Plan, study: SearchStudy | None) -> list[str]:
    """Ids of every cell that the sweep has planned, searched or confirmed, each once."""
    return list(dict.fromkeys(cell for cell, _, _ in _named_cells(plan, study)))


def settled_cells(plan: Plan, study: SearchStudy | None, store: CellStore) -> list[tuple[str, str, str]]:
    """Cells (id, stage, label) with a record, which MLflow must know even if it is new."""
    return [named for named in _named_cells(plan, study) if store.read(named[0]) is not None]


def _named_cells(plan: Plan, study: SearchStudy | None) -> list[tuple[str, str, str]]:
    named = [(cell.id, "ablation", f"{row.label} · seed {cell.seed}") for row in plan.rows for cell in row.cells]
    teachers = {teacher.id: teacher for row in plan.rows for cell in row.cells for teacher in cell.teachers}
    named += [(teacher.id, "teacher", teacher_label(teacher)) for teacher in teachers.values()]
    if study is not None:
        named += [(trial.cell, "search", f"trial {trial.number}") for trial in study.record().trials if trial.cell]
        for rank, (trial, cells) in enumerate(study.winners(), 1):
            label = f"confirm {rank} (trial {trial.number})"
            named += [(cell.id, "confirm", f"{label} · seed {cell.seed}") for cell in cells]
    return named


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
        seeds_rule=adaptive.describe(plan, store.read),
        title=options.title,
        notes=options.notes,
        figures=options.figures,
        published=options.published,
        paired_tests=options.paired_tests,
    )


def command(args: argparse.Namespace) -> str:
    """The command as a reader would type it; what only says where things go on this machine is left out."""
    words = ["python -m ltsearch.sweep", str(args.spec) if not args.spec.is_absolute() else args.spec.name]
    words += [f"--profile {args.profile}"] if args.profile else []
    told = [a for a in args.set if not a.startswith(("report.", "tracking."))]
    words += [f"--set {shlex.quote(assignment)}" for assignment in told]
    words += [f"--seeds {args.seeds}"] if args.seeds else []
    return " ".join(words)


# -- before and after ----------------------------------------------------------------------------------------------------


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


def forget(plan: Plan, store: CellStore, study: SearchStudy | None) -> None:
    """``--fresh``: this study's cells and its search. Cells of other studies stay, unless they are the same."""
    for cell_id, _, _ in _named_cells(plan, study):
        store.clear(cell_id)
    if plan.search_base is not None:
        from ltsearch import journal

        folder = store.sweep_folder(plan.loaded.sweep)
        journal.forget(folder)
        (folder / SEARCH_ARTIFACT).unlink(missing_ok=True)


def report(plan: Plan, uri: str) -> None:
    """Write the report. ``analysis`` is loaded by name: nothing here depends on it."""
    write = import_module("analysis.report").write_report
    path = write(plan.loaded.sweep, uri, Path(plan.loaded.spec.report.folder) / plan.loaded.sweep)
    print(f"report: {path}")


def check_published(plan: Plan) -> None:
    """Published numbers that the study refers to must be there before hours are spent; raises ``UserError``."""
    numbers = import_module("analysis.published_numbers")
    for row in plan.rows:
        if row.published is not None:
            numbers.find(row.published)
    for table in plan.loaded.spec.report.published:
        numbers.table(table.paper, table.table)


def check_packages() -> None:
    """The three packages have common names: raises ``UserError`` if one comes from somewhere else."""
    home = Path(__file__).resolve().parent.parent
    for name in ("trainables", "analysis"):
        found = find_spec(name)
        where = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if where != home:
            raise UserError(
                f"package {name!r} comes from {where or 'nowhere'}, but ltsearch from {home}; run from {home} and remove the "
                "other from PYTHONPATH, or uninstall it"
            )


def _as_interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
