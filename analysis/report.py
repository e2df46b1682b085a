"""Reports: ``python -m analysis.report SPEC.yaml [--profile P]`` writes one, ``--all`` those of a store and an index.

Reads the records of the store, or the runs on a tracking server, and writes ``report.md`` with a CSV and a LaTeX file beside
every table, and PNG, SVG and CSV of every figure. ``--export`` puts a run export beside it, and ``--from`` an export writes the
same report again, to the byte, wherever that is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import compare, index, markdown
from analysis.figures import DEFAULT_FIGURES, FIGURES, shifted_test, style
from analysis.figures import search as search_figures
from analysis.index import Entry
from analysis.page import charts, html
from analysis.page.document import Document
from analysis.published import numbers as published_numbers
from analysis.read import provenance, state, study_files
from analysis.read.cell_store import StoredRuns, find
from analysis.read.export import EXPORT, Export, Exporting
from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import Source
from analysis.read.selection import by_cell
from analysis.tables import (
    ablation,
    ablation_table,
    comparison,
    costs,
    factorial,
    paired_images,
    verdict,
)
from analysis.tables import (
    search as search_summary,
)
from analysis.tables.context import Context
from analysis.tables.search import SearchSummary
from ltsearch.store.cells import STORAGE_VARIABLE, storage_root
from ltsearch.store.records import FigureRequest, PlanRecord, is_name, is_sweep
from trainables.errors import UserError
from trainables.files import write_text

DEFAULT_URI = "sqlite:///mlflow.db"
STUDIES = "search_spaces"


def write_report(sweep: str, source: Source, folder: Path, *, export: bool = False) -> Path:
    """Write the report of ``sweep`` into ``folder``, with an ``export`` beside it; returns the path of ``report.md``.

    Raises ``UserError`` if the source does not answer, the sweep is not there, nothing has finished, or a published table
    does not exist: nothing is then written.
    """
    if not export:
        return _write(sweep, source, folder)[0]
    kept = Exporting(source)
    path = _write(sweep, kept, folder)[0]
    kept.write(folder / EXPORT)
    return path


def find_source(sweep: str, storage: str | None, tracking_uri: str) -> Source:
    """Where a sweep's runs are: the store (none: as the sweep itself finds it), or else the tracking server."""
    return find(sweep, storage_root(storage), tracking_uri)


def _write(sweep: str, source: Source, folder: Path) -> tuple[Path, Entry]:
    runs = source.sweep(sweep)
    plan, cells = runs.plan, by_cell(runs.frame)
    tables = ablation.build(plan, cells)
    compared = [comparison.build(plan, tables, asked, _published_name(asked), source) for asked in plan.published]
    origin = provenance.build(plan, runs.search, cells, source.records(provenance.sample(cells)))
    standing = state.build(plan, runs.search, cells)
    summary = search_summary.build(runs.search, cells) if runs.search is not None else None

    document = Document(folder, plan.name)
    document.say(*_head(plan))
    context = Context(plan, tables, source)
    if verdicts := verdict.build(plan, tables):
        document.say("## Verdict", verdict.render(verdicts), "Data: [CSV](verdict.csv).")
        document.files["verdict.csv"] = verdict.render_csv(verdicts)
        document.explain("Verdict", verdict.HOW_TO_READ)
    if plan.rows:
        _ablation(document, context)
        _costs(document, context)
        _figures(document, context, _asked(plan)[1:], first=2)
        _paired_tests(document, context)
    if compared:
        document.say("## Published")
        document.explain("Published", comparison.HOW_TO_READ)
        for asked, table in zip(plan.published, compared, strict=True):
            document.say(f"### {published_numbers.source(asked)}", f"*{table.caption}.*")
            document.table(table)
    if summary is not None:
        _search(document, summary)
    document.say("## Behind it")
    document.fold("What ran", state.render(standing))
    if document.explained:
        document.fold("How to read this", "\n\n".join(f"**{what}.** {how}" for what, how in document.explained.items()))
    document.fold("Provenance", "\n\n".join([provenance.render(origin), *runs.notes]))
    if isinstance(source, Exporting | Export):
        document.say(
            f"The runs: [{EXPORT}]({EXPORT}); `python -m analysis.report --from {EXPORT}` writes all of this again."
        )
    path = document.write()
    html.write(document, plan.title or plan.name)
    return path, Entry(sweep, plan.question, index.stand(standing), index.headline(plan, tables, summary), path)


def _published_name(asked: Any) -> str:
    return f"published_{asked.paper}_{asked.table}"


def _head(plan: PlanRecord) -> list[str]:
    profile = f" (profile `{plan.profile}`)" if plan.profile else ""
    return [f"# {plan.title or plan.name}{profile}", plan.question.strip(), (plan.notes or "").strip()]


def _ablation(document: Document, context: Context) -> None:
    """The main table, which is that of all settings where there are several, the first figure, and the other tables."""
    tables = context.tables
    overview = ablation_table.build_overview(tables, "ablation_overview")
    document.say("## Ablation")
    document.explain("Ablation", ablation.how_to_read(tables))
    if overview is not None:
        document.say("### All settings")
        document.table(overview)
        _figures(document, context, _asked(context.plan)[:1], first=1)
    for table in tables:
        name = f"ablation_{slug(table.subset)}" if len(tables) > 1 else "ablation"
        document.say(f"### {table.subset}" if table.subset else "")
        document.table(ablation_table.build(table, name))
        if table is tables[0] and overview is None:
            _figures(document, context, _asked(context.plan)[:1], first=1)
    document.files["ablation_seeds.csv"] = ablation_table.render_seeds_csv(tables)
    document.say("Every row by seed: [ablation_seeds.csv](ablation_seeds.csv).")
    for found in factorial.build(context.plan, tables):
        document.say(f"### Effects{f', {found.setting}' if found.setting else ''}")
        document.table(factorial.to_table(found, f"effects_{slug(found.setting)}" if found.setting else "effects"))
        document.explain("Effects", factorial.HOW_TO_READ)


def _costs(document: Document, context: Context) -> None:
    classes, cost = costs.to_tables(costs.build(context.tables))
    for heading, table, how in (
        ("Classes and calibration", classes, costs.HOW_TO_READ_CLASSES),
        ("Cost", cost, costs.HOW_TO_READ_COSTS),
    ):
        document.say(f"## {heading}")
        document.explain(heading, how)
        document.table(table)


def _asked(plan: PlanRecord) -> Sequence[FigureRequest]:
    """The study's figures; of a study that asks for none, those that every study has something for."""
    return plan.figures or [FigureRequest(kind=kind) for kind in DEFAULT_FIGURES]


def _figures(document: Document, context: Context, asked: Sequence[FigureRequest], first: int) -> None:
    """Figures, numbered from ``first``; a heading for all but the one that stands beside the main table."""
    heading = "## Figures" if first > 1 else ""
    with style.style():
        for number, request in enumerate(asked, start=first):
            kind = FIGURES[request.kind]
            data = kind.build(context, request)
            caption = request.caption or kind.caption
            if data is None and not context.plan.figures:
                continue
            document.say(heading)
            heading = ""
            if data is None:
                document.say(f"*{caption}*: nothing to draw: no finished run has what it shows.")
                continue
            header, rows = kind.table(data)
            name = f"{number}_{request.kind}"
            text = markdown.csv_text(header, rows)
            if request.kind == "shifted_test":
                document.table(shifted_test.to_table(data, f"{number}_shifted_test", caption.rstrip(".")))
            chart = charts.of_figure(request.kind, data)
            document.figure(kind.render(data), name, caption.rstrip("."), kind.describe(data), text, chart)


def _paired_tests(document: Document, context: Context) -> None:
    asked = context.plan.paired_tests
    if asked:
        document.say("## Image by image")
        document.explain("Image by image", paired_images.HOW_TO_READ)
    for number, test in enumerate(asked, start=1):
        result = paired_images.build(context, test)
        if result is None:
            document.say(f"“{test.row}” against “{test.reference}”: no seed of which both have finished.")
            continue
        name = f"paired_{number}"
        made = paired_images.to_table(result, name)
        document.say(f"### {made.caption}")
        document.table(made, paired_images.to_table(result, name, every=True))


def _search(document: Document, summary: SearchSummary) -> None:
    files = search_summary.render_files(summary, document.study)
    document.files |= files
    document.say("## Search", search_summary.render(summary))
    with style.style():
        for name, (caption, alt, figure) in search_figures.draw(summary).items():
            document.figure(figure, name, caption, alt, chart=charts.of_search(name, summary))
    document.say("Data: " + ", ".join(f"[{name}]({name})" for name in files) + "." if files else "")


def slug(text: str) -> str:
    """A name for a file: letters, digits and underscores."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower().replace("%", "percent")).strip("_")


def write_all(storage: str | None, tracking_uri: str, folder: Path, studies: Path | None = None) -> Path:
    """Write the report of every sweep of a store and a tracking server into ``folder`` and the index of them; returns its path.

    ``studies`` is a folder of study files: those that never ran stand in the index too. Raises ``UserError`` if there is none.
    """
    known = study_files.find(studies) if studies is not None else []
    stored = StoredRuns(storage_root(storage), tracking_uri)
    sources: dict[str, Source] = dict.fromkeys(stored.sweeps(), stored)
    try:
        server = TrackingStore(tracking_uri)
        sources = dict.fromkeys(server.sweeps(), server) | sources
    except UserError:
        if not sources:
            raise
    entries = [_entry(sweep, source, folder) for sweep, source in sorted(sources.items())]
    if not any(entry.report for entry in entries):
        raise UserError(f"{tracking_uri}: no sweep with a finished trial; nothing to report")
    entries += index.not_run(known, list(sources))
    write_text(folder / index.INDEX, index.render(entries, folder))
    return folder / index.INDEX


def _entry(sweep: str, source: Source, folder: Path) -> Entry:
    """Write one of many reports: whatever is wrong with it does not keep the others from being written."""
    if not is_sweep(sweep):  # a server is shared: what others call their sweeps is not to become a path
        why = "its name is none that a sweep has (letters, digits, _ . -): no folder is made of it"
        return Entry(sweep, "", "no report", why, None)
    try:
        return _write(sweep, source, folder / sweep)[1]
    except UserError as error:
        why = str(error).removeprefix(f"{source.name}: ")
    except Exception as error:  # a record of another version, arrays of another shape, a folder of another user
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Entry(sweep, "", "no report", why, None)


# -- command line ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Write reports and print where; 2 with one message if that cannot be done."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description="Write the report of a sweep.")
    parser.add_argument("spec", type=Path, metavar="SPEC.yaml", nargs="?")
    parser.add_argument("--all", action="store_true", help="every sweep of the store, and an index of them")
    parser.add_argument(
        "--studies",
        type=Path,
        metavar="DIR",
        help=f"for --all: studies, to list those that never ran; default: {STUDIES}",
    )
    parser.add_argument("--profile", help="the profile that the sweep ran with")
    places = f"a folder or s3://… (default: {STORAGE_VARIABLE} or ./store)"
    parser.add_argument("--storage", metavar="PLACE", help=f"where cells live: {places}")
    parser.add_argument("--tracking-uri", help=f"MLflow; default: the spec's, MLFLOW_TRACKING_URI, {DEFAULT_URI}")
    parser.add_argument("--export", action="store_true", help=f"put the runs behind the report beside it, as {EXPORT}")
    parser.add_argument(
        "--from", dest="origin", type=Path, metavar="EXPORT", help="write the report of an export again"
    )
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="what changed between two sweeps: names in the store, or exports"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report; default: <report.folder>/<sweep>, results for --all, the export's for --from; "
        "of a comparison, which is printed without it",
    )
    args = parser.parse_args(arguments)
    if (
        (args.all or args.compare)
        and args.spec is not None
        or not (args.all or args.spec or args.origin or args.compare)
    ):
        parser.error("name a study, --all for every sweep of the store, --from an export, or --compare two sweeps")
    asked = {
        "--all": args.all,
        "--from": args.origin is not None,
        "--export": args.export,
        "--compare": bool(args.compare),
    }
    together = [option for option, on in asked.items() if on]
    if len(together) > 1:
        parser.error(f"{together[1]} does not go with {together[0]}")
    if args.studies is not None and not args.all:
        parser.error("--studies goes with --all")
    try:
        print(_run(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: the report cannot be written: {error}", file=sys.stderr)
        return 2
    return 0


def _run(args: argparse.Namespace) -> Path | str:
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    if args.compare:
        return _compare(args, args.tracking_uri or environment or DEFAULT_URI)
    if args.all:
        studies = args.studies or (Path(STUDIES) if Path(STUDIES).is_dir() else None)
        uri = args.tracking_uri or environment or DEFAULT_URI
        return write_all(args.storage, uri, args.out or Path("results"), studies)
    if args.origin is not None and args.spec is None:
        export = Export(args.origin)
        return write_report(export.plan.sweep, export, args.out or args.origin.parent)
    tree = study_files.read(args.spec)
    if args.profile is not None and not is_name(args.profile):
        raise UserError(f"--profile {args.profile!r}: not the name of a profile (letters, digits, _ . -)")
    sweep = f"{tree['name']}@{args.profile}" if args.profile else str(tree["name"])
    if not is_sweep(sweep):
        raise UserError(f"{args.spec}: name = {tree['name']!r}: not the name of a study (letters, digits, _ . -)")
    option = study_files.options(tree, args.profile)
    uri = args.tracking_uri or option("tracking", "uri") or environment or DEFAULT_URI
    if args.origin is not None:
        return write_report(sweep, Export(args.origin), args.out or args.origin.parent)
    folder = args.out or Path(option("report", "folder") or "results") / sweep
    return write_report(sweep, find_source(sweep, args.storage, uri), folder, export=args.export)


def _compare(args: argparse.Namespace, uri: str) -> Path | str:
    """The comparison's text, or with a folder where it is written."""
    runs = []
    for name in args.compare:
        path = Path(name)
        source: Source = Export(path) if path.is_file() else find_source(name, args.storage, uri)
        runs.append(source.sweep(source.plan.sweep if isinstance(source, Export) else name))
    found = compare.build(runs[0], runs[1], (args.compare[0], args.compare[1]))
    if args.out is None:
        return compare.render(found)
    write_text(args.out / "compare.csv", compare.to_csv(found))
    write_text(args.out / "compare.md", compare.render(found))
    return Path(args.out / "compare.md")


if __name__ == "__main__":
    sys.exit(main())
