"""What can be wrong with where a sweep reads and writes, found before anything starts.

``places`` asks nothing of a disk or a server, so ``--plan`` says it too; ``access`` looks at what lies there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ltsearch.plan import placement, side_by_side
from ltsearch.plan.cells import Plan
from ltsearch.store.cells import CHECKPOINT, RECORD, WEIGHTS, CellStore
from ltsearch.store.ids import cell_id
from ltsearch.store.permissions import file_problem, folder_problem, may, refuse, replace_problem
from ltsearch.store.provenance import ROOT, gpu_names
from ltsearch.store.records import FINAL_ARTIFACT, SEARCH_ARTIFACT
from ltsearch.study.options import Choice, RunOptions
from ltsearch.study.spec import Resources
from ltsearch.tracking import server
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.files import encodable, raw, shown

if TYPE_CHECKING:
    from trainables.custom import Trainable


def words(choice: Choice, options: RunOptions) -> None:
    """Raises ``UserError`` for words of the command line that are not UTF-8 or hold a NUL: they end up in files and logs."""
    for name, value in (vars(choice) | vars(options)).items():
        for word in value if isinstance(value, tuple) else [value]:
            if isinstance(word, str | Path) and not encodable(str(word)):
                option = "" if name == "spec" else f"--{name.replace('_', '-')} "
                raise UserError(f"{option}{raw(str(word))}: not UTF-8; rename it, or name another")


def packages() -> None:
    """The three packages have common names: raises ``UserError`` if one comes from somewhere else."""
    for name in ("trainables", "analysis"):
        found = find_spec(name)
        where = Path(found.origin).resolve().parent.parent if found and found.origin else None
        if where != ROOT:
            raise UserError(
                f"package {name!r} comes from {where or 'nowhere'}, but ltsearch from {ROOT}; run from {ROOT} and remove the "
                "other from PYTHONPATH, or uninstall it"
            )


def places(plan: Plan, store: CellStore, root: Path, tracking: str | None) -> str:
    """Raises ``UserError`` if results could not be kept under these names; returns MLflow's URI."""
    named = {
        "the working directory": Path.cwd(),
        "--storage": store.root,
        "--data-root": root,
        "report.folder": Path(plan.loaded.spec.report.folder).absolute(),
    }
    for name, place in named.items():
        if not encodable(str(place)):
            raise UserError(
                f"{name} {raw(str(place))}: not UTF-8, which records, MLflow and reports are written in; rename the "
                "folder, or name another"
            )
    check_published(plan)
    uri = server.resolve_uri(tracking, plan.loaded.spec.tracking.uri)
    server.check_name(uri)
    return uri


def access(plan: Plan, store: CellStore, uri: str) -> None:
    """Raises ``UserError`` if this user may not write where the sweep has to; leaves nothing behind."""
    store.check_writable()
    check_report_folder(plan)
    if isinstance(store.root, Path):
        folder = store.root / "sweeps" / plan.loaded.sweep
        folders = [store.root, store.root / "cells", folder.parent, folder]
        problems = [folder_problem(place) for place in folders]
        problems += [file_problem(folder / name, write=True) for name in ("lock", "optuna.journal")]
        replaced = [folder / "status.json", folder / SEARCH_ARTIFACT]
        replaced += [store.root / name for name in ("fingerprints.json", side_by_side.FILE)]
        problems += [
            problem for file in replaced for problem in (file_problem(file, write=False), replace_problem(file))
        ]
        refuse(f"--storage {shown(store.root)}", problems, "name another folder with --storage")
    server.check(uri, server.experiment_name(plan.loaded.spec))


def work(plan: Plan, store: CellStore, configs: Sequence[TrialConfig]) -> None:
    """Raises ``UserError`` if what is left to be trained could not be, or not be kept."""
    placement.check_workers(plan.loaded.spec.resources, configs)
    if plan.loaded.spec.resources.auto:
        side_by_side.check(configs)
    access_to_cells(store, configs)


def functions(configs: Iterable[TrialConfig], given: Mapping[str, Trainable]) -> dict[str, Trainable]:
    """The user's own trainables that are asked for, by name; raises ``UserError`` for one that is not there."""
    names = {config.custom.function for config in configs if config.custom is not None} - given.keys()
    if not names:
        return dict(given)
    from trainables import custom

    return {**given, **{name: custom.find(name) for name in sorted(names)}}


def access_to_cells(store: CellStore, work: Iterable[TrialConfig]) -> None:
    """Raises ``UserError`` if a cell that is to be trained lies in a folder that this user may not write to.

    Another user's finished cells need only be readable.
    """
    if not isinstance(store.root, Path):
        return
    problems: list[str | None] = []
    for cell in dict.fromkeys(map(cell_id, work)):
        folder = store.root / "cells" / cell
        problems.append(folder_problem(folder))
        if problems[-1] is None:
            files = [folder / name for name in (RECORD, CHECKPOINT, WEIGHTS, FINAL_ARTIFACT)]
            problems += [p for file in files for p in (file_problem(file, write=False), replace_problem(file))]
    refuse(f"--storage {shown(store.root)}", problems, "name another folder with --storage")


def check_report_folder(plan: Plan) -> None:
    """Raises ``UserError`` if the report could not be written; creates nothing."""
    folder = Path(plan.loaded.spec.report.folder) / plan.loaded.sweep
    for place in (folder, folder / "figures"):
        there = next(p for p in (place, *place.absolute().parents) if os.path.lexists(p))
        if not there.is_dir() or not may(there, os.W_OK | os.X_OK):
            why = "not writable" if there.is_dir() else "not a folder"
            raise UserError(
                f"report.folder = {plan.loaded.spec.report.folder!r}: {shown(there)} is {why}; name another folder"
            )


def check_published(plan: Plan) -> None:
    """Published numbers that the study refers to must be there before hours are spent; raises ``UserError``."""
    numbers = import_module("analysis.published.numbers")
    for row in plan.rows:
        if row.published is not None:
            numbers.find(row.published)
    for table in plan.loaded.spec.report.published:
        numbers.table(table.paper, table.table)


def warn_of_emulation(work: Sequence[TrialConfig], resources: Resources) -> None:
    """Trials' own warnings are not seen: the driver looks whether this machine multiplies what they ask for."""
    asked = next((config for config in work if config.training.precision == "bf16"), None)
    if asked is not None:
        import torch

        from trainables.precision import emulated

        on_gpu = resources.gpus_per_worker or (resources.auto and gpu_names())
        if text := emulated(asked, torch.device("cuda" if on_gpu else "cpu")):
            print(f"warning: {text}")
