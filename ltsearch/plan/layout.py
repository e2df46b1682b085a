"""From a spec to rows and cells: what a sweep is going to run, without torch and without Ray."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from ltsearch.plan.cells import Plan, PlanRow, cell_of, make_cell, switched
from ltsearch.plan.checks import check_figures, check_patterns, check_starts
from ltsearch.plan.searched import search_base
from ltsearch.study.overrides import flatten, merge, nest
from ltsearch.study.spec import Loaded, Overrides, Row, trial_config
from trainables.errors import UserError


def make_plan(loaded: Loaded) -> Plan:
    """Lay out a study; raises ``UserError`` where a row or the search space does not give a valid configuration."""
    spec, file = loaded.spec, loaded.file
    base = nest(spec.base)
    trial_config(base, f"{file}: base")
    if "seed" in base:
        raise UserError(f"{file}: base.seed: seeds are given by `seeds`, not in base")
    rows: list[PlanRow] = []
    if spec.ablation is not None:
        # A row's own keys come on top of the setting's.
        made = [
            [_plan_row(loaded, row, setting, merge(base, nest(over))) for row in _rows(loaded)]
            for setting, over in (spec.ablation.settings or {"": {}}).items()
        ]
        _check_written(made, file, len(spec.ablation.rows))
        rows = [row for of_setting in made for row in _distinct(of_setting, file, spec.ablation.reference)]
        check_patterns(loaded)
    reference = _reference(loaded, rows)
    _check_report(loaded, rows)
    return Plan(loaded, _flagged(loaded, rows, reference), reference, search_base(loaded, base))


def _plan_row(loaded: Loaded, row: Row, setting: str, base: Overrides) -> PlanRow:
    tree = switched(base, loaded, row.with_, row.set)
    for pattern, over in row.set_in.items():
        if fnmatch.fnmatchcase(setting, pattern):
            tree = merge(tree, nest(over))
    where = f"{loaded.file}: ablation row {row.name!r}" + (f" in {setting!r}" if setting else "")
    seeds = loaded.spec.seed_numbers()
    checked = make_cell(tree, seeds[0], where).config
    cells = tuple(cell_of(checked.model_copy(update={"seed": seed}), True) for seed in seeds)
    check_starts(cells[0].config, where)
    changes = _changes(base, tree)
    pure = not row.set and not row.set_in
    return PlanRow(
        row.name, row.predict, changes, cells, row.published, setting, tuple(row.with_), pure, priority=row.priority
    )


def _check_report(loaded: Loaded, rows: Sequence[PlanRow]) -> None:
    """Rows and settings that the report is asked to show must exist; raises ``UserError``."""
    options = loaded.spec.report
    names, settings = list(dict.fromkeys(row.name for row in rows)), list(dict.fromkeys(row.setting for row in rows))
    asked = [(f"report.figures[{i}]", figure.rows, figure.setting) for i, figure in enumerate(options.figures)]
    asked += [
        (f"report.paired_tests[{i}]", [test.row, test.reference], test.setting)
        for i, test in enumerate(options.paired_tests)
    ]
    asked += [(f"report.claims[{i}]", [c.row, c.reference], c.setting) for i, c in enumerate(options.claims)]
    if asked and not rows:
        raise UserError(
            f"{loaded.file}: {asked[0][0]}: shows rows of an ablation, and this study has none; leave it out"
        )
    check_figures(loaded, rows)
    for where, wanted, setting in asked:
        for name in wanted:
            if name not in names:
                raise UserError(f"{loaded.file}: {where}: no row {name!r}; rows: {', '.join(names)}")
        if setting is not None and setting not in settings:
            raise UserError(f"{loaded.file}: {where}.setting = {setting!r}: settings: {', '.join(settings) or 'none'}")


# What a study of methods varies, unless it says otherwise: the rest is the recipe, and rows that differ in it are flagged.
DEFAULT_AXIS = ("method", "model.experts", "augmentation.copies")


def _flagged(loaded: Loaded, rows: Sequence[PlanRow], reference: str | None) -> tuple[PlanRow, ...]:
    """Rows with what they differ in from their setting's reference beyond the studied axis."""
    ablation = loaded.spec.ablation
    if ablation is None:
        return ()
    axis = list(ablation.axis)
    if not axis:
        grid = list(ablation.grid.axes) if ablation.grid is not None else []
        axis = [*DEFAULT_AXIS, *grid, *(key for over in ablation.components.values() for key in flatten(nest(over)))]
    flagged = []
    for row in rows:
        base = next(r for r in rows if r.setting == row.setting and r.name == reference)
        theirs = flatten(base.cells[0].config.model_dump(mode="json"))
        ours = flatten(row.cells[0].config.model_dump(mode="json"))
        beyond = {
            key: value
            for key, value in ours.items()
            if theirs.get(key) != value and not any(key == a or key.startswith(f"{a}.") for a in axis)
        }
        flagged.append(replace(row, beyond=beyond))
    return tuple(flagged)


def _rows(loaded: Loaded) -> list[Row]:
    ablation = loaded.spec.ablation
    assert ablation is not None
    rows = list(ablation.rows)
    names = list(ablation.components)

    def add(name: str, parts: Sequence[str]) -> None:
        rows.append(Row(name=name, with_=list(parts), published=ablation.published.get(name)))

    for design in ablation.designs:
        if design == "add_one_in":
            add(ablation.base_name, [])
            for name in names:
                add(f"{ablation.base_name} + {name}", [name])
        elif design == "leave_one_out":
            add("all", names)
            for name in names:
                add(f"all − {name}", [n for n in names if n != name])
        elif design == "cumulative":
            for count in range(len(names) + 1):
                add(" + ".join([ablation.base_name, *names[:count]]), names[:count])
        else:  # factorial
            for count in range(len(names) + 1):
                for chosen in combinations(names, count):
                    add(" + ".join([ablation.base_name, *chosen]), chosen)
    if ablation.grid is not None:
        grid = ablation.grid
        for values in product(*grid.axes.values()):
            name = ", ".join(
                f"{key.rsplit('.', 1)[-1]} = {value}" for key, value in zip(grid.axes, values, strict=True)
            )
            over = merge(nest(grid.set), nest(dict(zip(grid.axes, values, strict=True))))
            rows.append(
                Row(name=name, with_=grid.with_, set=over, predict=grid.predict, published=ablation.published.get(name))
            )
    return rows


def _changes(base: Overrides, tree: Overrides) -> dict[str, Any]:
    """What differs from base, by dotted key; keys that fell away with another method are left out."""
    before, after = flatten(base), flatten(tree)
    return {key: value for key, value in after.items() if key not in before or before[key] != value}


def _same(row: PlanRow) -> tuple[str, tuple[str, ...]]:
    """What two rows that would show the same numbers share."""
    return row.predict, tuple(cell.id for cell in row.cells)


def _check_written(made: Sequence[Sequence[PlanRow]], file: str, count: int) -> None:
    """The first ``count`` rows of every setting are written down in the study, and each is expected in the report.

    Raises ``UserError`` if two of them are the same in all settings.
    """
    seen: dict[Any, PlanRow] = {}
    for of_settings in list(zip(*made, strict=True))[:count]:
        row = of_settings[0]
        first = seen.setdefault(tuple(map(_same, of_settings)), row)
        if first is not row:
            raise UserError(
                f"{file}: ablation.rows: {first.name!r} and {row.name!r} have the same configuration, so that one of them "
                "would not be shown; remove one, change what it sets, or let it `predict` the other of single and ensemble"
            )


def _distinct(rows: Sequence[PlanRow], file: str, reference: str | None) -> tuple[PlanRow, ...]:
    """A design may make a row that is already there: the first, named one, stays, or the reference row.

    Two rows of one name are refused. Where something else than the same components comes to the same configuration, the row
    that stays names the others.
    """
    kept: dict[tuple[str, tuple[str, ...]], PlanRow] = {}
    for row in rows:  # of one setting
        key = _same(row)
        first = kept.get(key)
        if first is None:
            kept[key] = row
            continue
        stays, goes = (row, first) if row.name == reference else (first, row)
        told = () if set(stays.components) == set(goes.components) and stays.pure and goes.pure else (goes.name,)
        kept[key] = replace(stays, also=tuple(dict.fromkeys((*first.also, *told))))
    names = [row.name for row in kept.values()]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{file}: ablation: two different rows are called {name!r}; rename one")
    return tuple(kept.values())


def _reference(loaded: Loaded, rows: Sequence[PlanRow]) -> str | None:
    if not rows or loaded.spec.ablation is None:
        return None
    wanted = loaded.spec.ablation.reference
    names = list(dict.fromkeys(row.name for row in rows))
    if wanted is not None and wanted not in names:
        raise UserError(f"{loaded.file}: ablation.reference = {wanted!r}: no such row; rows: {', '.join(names)}")
    return wanted or names[0]
