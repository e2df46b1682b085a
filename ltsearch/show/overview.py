"""``--plan``: what a sweep would run, on what, and for how long; without torch and without Ray."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pydantic import ValidationError

from ltsearch.plan import adaptive, estimate, placement, side_by_side
from ltsearch.plan.cells import Cell, Plan, first
from ltsearch.plan.searched import first_choices
from ltsearch.show.progress import clock
from ltsearch.store.cells import CellStore
from ltsearch.store.provenance import hardware
from ltsearch.store.records import (
    PEAK_MEMORY,
    SEARCH_ARTIFACT,
    SETTLED,
    TOTAL_SECONDS,
    CellRecord,
    SearchRecord,
    Status,
)
from ltsearch.study.seeds import seed_list
from ltsearch.study.spec import AdaptiveSeeds
from trainables.overrides import flatten

State = str
MOST_TIMED = 100  # finished cells that an estimate looks at
_OVER = ("done", "diverged", "out_of_memory")
_SHOWN = {Status.FINISHED: "done", Status.RUNNING: "interrupted"}


def state(cell: str, store: CellStore, stale: Callable[[CellRecord], bool]) -> State:
    """done, missing, stale, interrupted, failed, diverged or out_of_memory."""
    record = store.head(cell)
    if record is None:
        return "missing"
    if stale(record):
        return "stale"
    return _SHOWN.get(record.status, str(record.status))


def overview(
    plan: Plan,
    store: CellStore,
    stale: Callable[[CellRecord], bool],
    nodes: Sequence[placement.Node] | None,
    where: str = "this machine",
) -> str:
    """The text of ``--plan``. ``nodes``, of ``where`` it would run, hold CPUs and GPUs; None: not known from here."""
    plan = plan.with_seeds(adaptive.seeds_now(plan, store.read))
    spec, lines = plan.loaded.spec, []
    lines += [f"{plan.loaded.sweep}: {spec.question}" if spec.question else plan.loaded.sweep, ""]
    states = {cell.id: state(cell.id, store, stale) for cell in plan.cells}
    if plan.rows:
        lines += _rows(plan, states)
    if spec.search is not None:
        lines += _search(plan, searched(plan, store))
    if spec.resources.auto:
        plan, told = _auto(plan, store, states, nodes)
        lines.append(told)
    lines += _resources(plan, nodes, where)
    lines += _memory(plan, store, states)
    lines += _time(plan, store, states, nodes)
    return "\n".join(lines)


def _rows(plan: Plan, states: Mapping[str, State]) -> list[str]:
    counts = Counter(states.values())
    told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
    lines = [f"Ablation: {len(plan.rows)} rows, {len(states)} cells ({told}); reference: {plan.reference}"]
    width = max(len(row.name) for row in plan.rows)
    setting = ""
    for row in plan.rows:
        if row.setting != setting:
            setting = row.setting
            lines.append(f" {setting}:")
        changes = ", ".join(f"{key}={value}" for key, value in row.changes.items()) or "(base)"
        shown = f"  [{row.predict}]" if row.predict != "single" else ""
        lines.append(f"  {row.name:<{width}}  {changes}{shown}")
        cells = [f"{c.seed}: {c.id} {states[c.id]}" for c in row.cells]
        lines.append(f"  {'':<{width}}    seed " + " · ".join(cells))
        if row.also:
            lines.append(f"  {'':<{width}}    the same configuration, and so the same row: {', '.join(row.also)}")
        if row.beyond:
            keys = ", ".join(f"{key}={value}" for key, value in row.beyond.items())
            lines.append(f"  {'':<{width}}    warning: differs from {plan.reference} beyond the studied axis: {keys}")
    rule = plan.loaded.spec.seeds
    if isinstance(rule, AdaptiveSeeds):
        lines.append(
            f"  further seeds, up to {rule.max}, if differences are not known to ±{rule.until.ci_halfwidth:g} points"
        )
    return [*lines, "", *_first(plan, states)]


def _first(plan: Plan, states: Mapping[str, State]) -> list[str]:
    """What rows build on, each with those rows; cells that no row shows are listed."""
    rows = {cell.id: row.label for row in reversed(plan.rows) for cell in row.cells}
    found: dict[str, tuple[str, dict[str, Cell], dict[str, None]]] = {}
    for row in plan.rows:
        for cell in row.cells:
            for one in first(cell):
                any_seed = one.config.model_copy(update={"seed": 0}).model_dump_json()
                title = f"row {rows[one.id]!r}" if one.id in rows else _differs(one, cell)
                _, cells, users = found.setdefault(any_seed, (title, {}, {}))
                users[row.label] = None
                if one.id not in rows:
                    cells[one.id] = one
    lines = []
    for title, cells, users in found.values():
        lines.append(f"  {title}, for {', '.join(map(repr, users))}")
        shown = [f"{one.seed}: {one.id} {states[one.id]}" for one in cells.values()]
        lines += [f"    seed {' · '.join(shown)}"] if shown else []
    return ["Trained first, once for all that build on it:", *lines, ""] if lines else []


def _differs(one: Cell, user: Cell) -> str:
    """The method of a trial that comes first, and what of it is not its user's but for the method."""
    mine, theirs = (flatten(cell.config.model_dump(mode="json", exclude={"method", "seed"})) for cell in (one, user))
    changes = [f"{key}={value}" for key, value in mine.items() if value != theirs.get(key)]
    return f"{one.config.method.name} ({', '.join(changes)})" if changes else one.config.method.name


def searched(plan: Plan, store: CellStore) -> SearchRecord | None:
    """The search as the last run of the sweep left it."""
    try:
        path = store.sweep_folder(plan.loaded.sweep) / SEARCH_ARTIFACT
        return SearchRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _search(plan: Plan, before: SearchRecord | None) -> list[str]:
    search = plan.loaded.spec.search
    assert search is not None
    goals = ", ".join(f"{m.mode} {m.name}" for m in search.metrics)
    budget = [f"{search.trials} trials"]
    budget += [f"{search.max_hours:g} h"] if search.max_hours else []
    budget += [f"until {search.target:g}"] if search.target is not None else []
    stop = search.early_stopping
    lines = [
        f"Search: {goals}; {search.sampler}; {', '.join(budget)}; "
        + (stop.describe() if stop else "no early stopping")
        + f"; {search.val_per_class} validation images a class"
    ]
    if search.constraints:
        lines.append("  keeping to " + ", ".join(one.describe() for one in search.constraints))
    width = max(map(len, search.space))
    for name, parameter in search.space.items():
        tied = f"  → {', '.join(parameter.keys)}" if parameter.keys else ""
        lines.append(f"  {name:<{width}}  {parameter.describe()}{tied}")
    for choice in first_choices(plan):
        lines.append("  first: " + ", ".join(f"{name} = {value}" for name, value in choice.items()))
    if search.confirm:
        seeds = len(seed_list(search.confirm.seeds))
        lines.append(f"  confirm: the best {search.confirm.top_k}, {seeds} seeds each, on the test set")
    if before is not None:
        ended = Counter(trial.state for trial in before.trials)
        lines.append(f"  so far: {', '.join(f'{n} {name}' for name, n in sorted(ended.items())) or 'nothing'}")
    return [*lines, ""]


def _auto(
    plan: Plan, store: CellStore, states: Mapping[str, State], nodes: Sequence[placement.Node] | None
) -> tuple[Plan, str]:
    """The plan as it would run here, if packs of its kind were timed before, and what to tell of it."""
    resources = plan.loaded.spec.resources
    left = [cell.config for cell in plan.cells if states[cell.id] not in _OVER]
    searches = _search_left(plan, store)
    side_by_side.check([*left, *([plan.search_base] if searches and plan.search_base is not None else [])])
    trials = len(left) + searches
    on = side_by_side.machine(resources, {str(i): node for i, node in enumerate(nodes or ())})
    if not trials or on is None:
        return plan, "Resources: auto"
    config = side_by_side.costliest(plan, left, searches > 0)
    found = side_by_side.known(store, side_by_side.kind(config, on, hardware()))
    if not found:
        return (
            plan,
            "Resources: auto: a few steps are timed when the sweep starts; until then as if a trial took one CPU",
        )
    chosen = side_by_side.choose(found, trials, on.devices, resources.max_concurrent)
    return plan.with_resources(
        side_by_side.fill_in(resources, chosen.pack, on)
    ), "Resources: auto, as timed here before"


def _search_left(plan: Plan, store: CellStore) -> int:
    """Trials of the search that are still to come."""
    search, before = plan.loaded.spec.search, searched(plan, store)
    if search is None or before is None:
        return search.trials if search is not None else 0
    if before.stopped_by and not before.stopped_by.endswith(" trials"):  # by a target, or hours
        return 0
    return max(search.trials - sum(trial.state != "running" for trial in before.trials), 0)


def _resources(plan: Plan, nodes: Sequence[placement.Node] | None, where: str) -> list[str]:
    r = plan.loaded.spec.resources
    need = f"{r.workers * r.cpus_per_worker:g} CPU, {r.workers * r.gpus_per_worker:g} GPU"
    if nodes is None:
        return [
            f"Resources: one trial needs {need}; what {where} has is known there (`ray status`); --local: plan for here"
        ]
    there = f"{sum(n.get('CPU', 0) for n in nodes):g} CPU, {sum(n.get('GPU', 0) for n in nodes):g} GPU"
    fit = min(placement.at_once(r, nodes), r.max_concurrent or 10**9)
    return [
        f"Resources: one trial needs {need}; {where} has {there}: " + (f"{fit} at once" if fit else "it does not fit")
    ]


def _time(
    plan: Plan, store: CellStore, states: Mapping[str, State], nodes: Sequence[placement.Node] | None
) -> list[str]:
    left = [cell for cell in plan.cells if states[cell.id] not in _OVER]
    if not left and plan.search_base is None:
        return ["Time: nothing that is planned is left to train"]
    finished = [cell for cell in plan.cells if states[cell.id] == "done"]
    some = random.Random(0).sample(finished, min(len(finished), MOST_TIMED))
    known = [(cell, record) for cell in some if (record := store.read(cell.id)) and record.status is Status.FINISHED]
    resources, search = plan.loaded.spec.resources, plan.loaded.spec.search
    on_gpu = resources.gpus_per_worker > 0
    costs = [(estimate.work(cell.config, on_gpu), record.final.get(TOTAL_SECONDS, 0.0)) for cell, record in known]
    rates = [cost / seconds for cost, seconds in costs if cost and seconds]
    rate = statistics.median(rates) if rates else estimate.default_rate(resources)
    basis = (
        f"from {len(rates)} finished cells" if rates else f"a rough guess for {'one GPU' if on_gpu else 'such CPUs'}"
    )
    each = [estimate.work(cell.config, on_gpu) for cell in left]
    base = estimate.work(plan.search_base, on_gpu) if plan.search_base is not None else 0.0
    if any(cost is None for cost in (*each, base)):
        return ["Time: not known before the data was read"]
    trials = [(cost or 0.0) / rate for cost in each]
    text = f"{len(left)} ablation cells, {clock(sum(trials))} of training"
    if search is not None and plan.search_base is not None:
        one = (base or 0.0) / rate
        before = searched(plan, store)
        confirmed = [cell.cell for winner in before.confirmed for cell in winner.cells] if before else []
        confirm = search.confirm.top_k * len(seed_list(search.confirm.seeds)) if search.confirm else 0
        confirm -= sum((record := store.head(cell)) is not None and record.status in SETTLED for cell in confirmed)
        share = estimate.share(search.early_stopping, plan.search_base.training.epochs)
        more = [one * share] * _search_left(plan, store) + [one] * max(confirm, 0)
        text += f"; search and confirmation, {clock(sum(more))}"
        trials += more
    at_once = (
        min(max(placement.at_once(resources, nodes), 1), resources.max_concurrent or 10**9) if nodes is not None else 1
    )
    seconds = estimate.START + estimate.makespan(trials, at_once) + estimate.END if trials else 0.0
    return [f"Time: {text}; {at_once} at once: about {clock(seconds)} ({basis})"]


def _memory(plan: Plan, store: CellStore, states: Mapping[str, State]) -> list[str]:
    """The most that one trial that is left takes, by what finished ones took; nothing before one has finished."""
    left = [cell.config for cell in plan.cells if states[cell.id] not in _OVER]
    finished = [cell for cell in plan.cells if states[cell.id] == "done"][:MOST_TIMED] if left else []
    records = [(cell.config, record) for cell in finished if (record := store.read(cell.id)) is not None]
    seen = [
        (config, record.final.get(PEAK_MEMORY, 0.0), record.provenance.get("gpu", "none")) for config, record in records
    ]
    on_gpu = plan.loaded.spec.resources.gpus_per_worker > 0
    known = [(config, peak) for config, peak, gpu in seen if peak and (gpu != "none") == on_gpu]
    if not left or not known:
        return []
    kinds = {estimate.passes(config): config for config in left}  # thousands of cells are of a few
    most = max(estimate.memory(config, known) for config in kinds.values())
    return [f"Memory: at most {most / 2**30:.2g} GiB a trial (from {len(known)} finished cells)"]
