"""What a sweep still has to do, and what all of it is: ablation cells, what they require, the search, the confirmations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ltsearch.plan import adaptive, sources
from ltsearch.plan.cells import Cell, Plan, first, required_label
from ltsearch.plan.searched import known_choices, search_data
from ltsearch.run.jobs import Ended
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.ids import cell_id
from ltsearch.store.records import KL_EXPERTS, SEARCH_ARTIFACT, SETTLED, CellRecord, Status
from ltsearch.study.seeds import seed_list
from trainables.config import TrialConfig
from trainables.data import SourceKey, source_key
from trainables.errors import UserError

if TYPE_CHECKING:
    from ltsearch.search.optuna_study import SearchStudy
    from trainables.data.source import Source


Judge = Callable[[CellRecord], bool]


@dataclass
class Work:
    """What a sweep has to do, as far as it is known."""

    study: SearchStudy | None  # the search, as far as it has come
    configs: list[TrialConfig]  # still to be trained
    data: dict[SourceKey, Source]  # what was read of it
    stale: Judge  # records of another content of their data set
    retry: bool


def look(plan: Plan, store: CellStore, root: Path, *, fresh: bool, retry: bool, say: Callable[[str], None]) -> Work:
    """What is left; with ``fresh`` all of it. Writes nothing."""
    store.recall_heads(plan.loaded.sweep)
    study = None if fresh else existing_study(plan, store, root)
    images = plan.loaded.spec.resources.images
    data = sources.read_unread(settled_configs(plan, study, store), store, root, say, images)
    stale = sources.stale_check(store, root, data)
    return Work(study, outstanding(plan, study, store, unwanted(fresh, retry, stale)), data, stale, retry)


def read_data(plan: Plan, work: Work, root: Path, say: Callable[[str], None]) -> None:
    """Read the images of what is left. Raises ``UserError`` for what cannot be made of them; writes nothing."""
    images = plan.loaded.spec.resources.images
    work.data = sources.read(work.configs, root, say, work.data, called(plan), images)
    check_metrics(plan, work.data)


def begin(
    plan: Plan, work: Work, store: CellStore, root: Path, say: Callable[[str], None], claims: Claims | None = None
) -> None:
    """Open the search, and forget records that do not count: of other data, and with ``retry`` those without a result.

    What another sweep is training now is left to it.
    """
    work.stale = sources.stale_check(store, root)
    if work.study is None and plan.search_base is not None:
        from ltsearch.search.optuna_study import SearchStudy

        folder, content = store.sweep_folder(plan.loaded.sweep), sources.content(store, plan.search_base, root)
        work.study = SearchStudy(plan, folder, content or "")
    if work.study is not None and work.study.search.warm_start and work.study.begins():
        work.study.known_choices = known = earlier(plan, store, work.stale)
        if known:
            say(f"search: {len(known)} cells of its space are there already: it is told of them")
    judge = unwanted(False, work.retry, work.stale)
    for cell in [*plan.cells, *confirmations(work.study)]:
        head = store.head(cell.id)
        if head is None or not judge(head):
            continue
        record = store.read(cell.id)  # another host may have finished it meanwhile
        if record is not None and judge(record) and not (claims is not None and claims.other(cell.id)):
            if work.stale(record):
                say(f"cell {cell.id}: its data set has another content than when it ran; it is run again")
            store.clear(cell.id)


def earlier(plan: Plan, store: CellStore, stale: Judge) -> list[dict[str, Any]]:
    """Choices of the search's space whose cells are finished, from whatever study, on the data as it lies there."""
    configs = []
    for cell in store.cells():
        record = store.head(cell)
        if record is not None and record.status is Status.FINISHED and not stale(record):
            with suppress(ValidationError):  # of another version
                configs.append(TrialConfig.model_validate(record.config))
    return known_choices(plan, configs)


def forget(plan: Plan, store: CellStore, root: Path, claims: Claims, say: Callable[[str], None]) -> None:
    """``--fresh``: this study's cells and its search. Cells of other studies stay, unless they are the same.

    What another sweep is training now is left to it.
    """
    folder, study, tried = store.sweep_folder(plan.loaded.sweep), None, []
    try:
        study = existing_study(plan, store, root)
    except UserError:  # a journal that is damaged: the trials that it still tells of
        from ltsearch.search import journal, record

        tried = journal.attributes(folder, record.CELL)
    for cell in [*all_cells(plan, study), *tried]:
        if other := claims.other(cell):
            say(f"cell {cell}: {other} is training it now; it is waited for, and not begun again")
        else:
            store.clear(cell)
    if plan.search_base is not None:
        from ltsearch.search import journal

        journal.forget(folder)
        (folder / SEARCH_ARTIFACT).unlink(missing_ok=True)


def unwanted(fresh: bool, retry: bool, stale: Judge) -> Judge:
    """Which records do not count: all with ``--fresh``, stale ones, and with ``--retry`` those of cells that gave no result."""

    def judge(record: CellRecord) -> bool:
        return fresh or stale(record) or (retry and record.status in (Status.DIVERGED, Status.OUT_OF_MEMORY))

    return judge


def outstanding(plan: Plan, study: SearchStudy | None, store: CellStore, unwanted: Judge) -> list[TrialConfig]:
    """Configurations that are still to be trained; of a search that goes on, one for every data set it may use."""

    def done(cell: str) -> bool:
        record = store.head(cell)
        return record is not None and record.status in SETTLED and not unwanted(record)

    planned = plan.with_seeds(adaptive.seeds_now(plan, lambda cell: store.read(cell) if done(cell) else None))
    left = [cell.config for cell in planned.cells if not done(cell.id)]
    if plan.search_base is not None:
        confirmed = confirmations(study)
        if study is None or not study.is_over() or not all(done(cell.id) for cell in confirmed):
            left += [*search_data(plan), *(cell.config for cell in confirmed)]
    return left


def called(plan: Plan) -> Callable[[TrialConfig], str]:
    """Where in the study a configuration stands: its file and row."""
    where: dict[str, str] = {cell.id: f"row {row.label!r}" for row in reversed(plan.rows) for cell in row.cells}
    for row in plan.rows:
        for one in (one for cell in row.cells for one in first(cell)):
            where.setdefault(one.id, f"row {row.label!r}, what it builds on")
    return lambda config: f"{plan.loaded.file}: {where.get(cell_id(config), 'search')}"


def confirmations(study: SearchStudy | None) -> list[Cell]:
    """Cells that confirm what the search has found so far."""
    return [cell for _, cells in study.winners() for cell in cells] if study is not None else []


def settled_configs(plan: Plan, study: SearchStudy | None, store: CellStore) -> list[TrialConfig]:
    """Configurations of cells that are done, by what is written of them: their data may have changed since."""
    return [cell.config for cell in [*plan.cells, *confirmations(study)] if is_settled(cell.id, store)]


def check_metrics(plan: Plan, data: Mapping[SourceKey, Source]) -> None:
    """Raises ``UserError`` if the search asks for a number that its trials will not have."""
    search, base = plan.loaded.spec.search, plan.search_base
    if search is None or base is None or (source := data.get(source_key(base.data))) is None:
        return
    from trainables.data.longtail import split

    counts = split(base.data, source).class_counts
    there = {
        "many": (counts > 100).any(),
        "medium": ((counts >= 20) & (counts <= 100)).any(),
        "few": (counts < 20).any(),
    }
    for metric in search.metrics:
        group = metric.name.rpartition("_")[2]
        where = f"{plan.loaded.file}: search.metrics: {metric.name}"
        if not there.get(group, True):
            raise UserError(
                f"{where}: no class of {base.data.path or base.data.name} is {group}-shot here (training images a class: "
                f"{int(counts.min())} to {int(counts.max())}); choose another metric"
            )
        searched = any("model.experts" in parameter.targets(name) for name, parameter in search.space.items())
        if metric.name.endswith(KL_EXPERTS) and base.model.experts == 1 and not searched:
            raise UserError(
                f"{where}: one expert has no distance to another; set model.experts, or choose another metric"
            )


def failures(plan: Plan, study: SearchStudy | None, store: CellStore, ended: Mapping[str, Ended]) -> list[str]:
    """One line for every cell without a result, of this run of the command or of an earlier one, and for a failed search."""
    told = {
        cell: f"{one.outcome.status}: {one.label} ({cell}): {one.outcome.error}"
        for cell, one in ended.items()
        if one.outcome.status not in (Status.FINISHED, Status.PRUNED)
    }
    for cell, stage, label in named_cells(plan, study):
        record = store.head(cell) if cell not in ended and stage != "search" else None
        if record is not None and record.status in SETTLED - {Status.FINISHED}:
            told.setdefault(cell, f"{record.status}: {label} ({cell}): {record.error}; --retry runs it again")
    return [*told.values(), *([f"search: {trouble}"] if study is not None and (trouble := study.trouble()) else [])]


def existing_study(plan: Plan, store: CellStore, root: Path) -> SearchStudy | None:
    """The search as far as it has come on the data as it lies there; None if it has not begun."""
    if plan.search_base is None:
        return None
    from ltsearch.search import journal
    from ltsearch.search.optuna_study import SearchStudy

    folder, content = store.sweep_folder(plan.loaded.sweep), sources.content(store, plan.search_base, root)
    if not content or not journal.exists(folder):
        return None
    try:
        return SearchStudy(plan, folder, content, create=False)  # another driver may be at work: nothing is written
    except KeyError:
        return None


def is_settled(cell: str, store: CellStore) -> bool:
    """Is there nothing more to be done for this cell?"""
    record = store.head(cell)
    return record is not None and record.status in SETTLED


def count(plan: Plan, study: SearchStudy | None, store: CellStore) -> tuple[int, int]:
    """How many cells the sweep has, and how many of them are done; of a search, as many as its budget allows."""
    cells = plan.with_seeds(adaptive.seeds_now(plan, store.read)).cells
    total, done = len(cells), sum(is_settled(cell.id, store) for cell in cells)
    search = plan.loaded.spec.search
    if study is not None and search is not None:
        over = study.is_over()
        confirmed = {cell.id for cell in confirmations(study)} - {cell.id for cell in cells}
        asked = search.confirm.top_k * len(seed_list(search.confirm.seeds)) if search.confirm else 0
        most = (search.trials + study.known()) * search.seeds_per_trial - study.cells_left_out()
        total += study.cells_ended() if over else most
        total += len(confirmed) if over else asked
        done += study.cells_ended() + (sum(is_settled(cell, store) for cell in confirmed) if over else 0)
    return total, done


def all_cells(plan: Plan, study: SearchStudy | None) -> list[str]:
    """Ids of every cell that the sweep has planned, searched or confirmed, each once."""
    return list(dict.fromkeys(cell for cell, _, _ in named_cells(plan, study)))


def recorded_cells(plan: Plan, study: SearchStudy | None, store: CellStore) -> list[tuple[str, str, str]]:
    """Cells (id, stage, label) with a record, which MLflow must know even if it is new."""
    return [named for named in named_cells(plan, study) if store.head(named[0]) is not None]


def named_cells(plan: Plan, study: SearchStudy | None) -> list[tuple[str, str, str]]:
    """Cells (id, stage, label) of the ablation, what they require, the search and the confirmations; shared ones come again."""
    named = [(cell.id, "ablation", f"{row.label} · seed {cell.seed}") for row in plan.rows for cell in row.cells]
    required = {one.id: one for row in plan.rows for cell in row.cells for one in first(cell)}
    named += [(one.id, "required", required_label(one)) for one in required.values()]
    if study is not None:
        named += [(cell, "search", f"trial {number}") for number, cell in study.cells()]
        for rank, (trial, cells) in enumerate(study.winners(), 1):
            label = f"confirm {rank} (trial {trial.number})"
            named += [(cell.id, "confirm", f"{label} · seed {cell.seed}") for cell in cells]
    return named
