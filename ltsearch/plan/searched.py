"""What a search varies: the configuration it starts from, the cell of every choice, and the cells that confirm its winners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ltsearch.plan.cells import Cell, Plan, cell_of, make_cell, switched
from ltsearch.plan.checks import check_together
from ltsearch.study import space as spaces
from ltsearch.study.messages import suggest
from ltsearch.study.overrides import flatten, merge, nest
from ltsearch.study.search import Search
from ltsearch.study.seeds import seed_list
from ltsearch.study.spec import Loaded, Overrides, trial_config
from trainables.config import TrialConfig
from trainables.errors import UserError


def search_base(loaded: Loaded, base: Overrides) -> TrialConfig | None:
    """The configuration that the search varies, checked with the whole space; raises ``UserError``."""
    search = loaded.spec.search
    if search is None:
        return None
    tree = switched(base, loaded, search.with_, search.set)
    for path, value in (("data.val_per_class", search.val_per_class), ("seed", search.trial_seed)):
        tree = merge(tree, nest({path: value}))
    tree = merge(nest({"evaluation.every": 1}), tree)
    where = f"{loaded.file}: search"
    config = trial_config(tree, where)
    _check_space(search, tree, where)
    check_together(loaded, tree, where)
    _check_enqueued(search, tree, where)
    return config


def _check_space(search: Search, tree: Overrides, where: str) -> None:
    """Every key exists, and every value or bound gives a valid configuration, one parameter at a time."""
    known = flatten(trial_config(tree, where).model_dump(mode="json"))
    for name, parameter in search.space.items():
        for key in parameter.targets(name):
            if key in ("seed", "data.val_per_class"):
                raise UserError(f"{where}.space.{name}: {key!r} cannot be searched over")
            if key not in known:
                hint = " (a parameter with a name of its own lists its configuration `keys`)"
                hint = hint if parameter.keys is None else ""
                raise UserError(
                    f"{where}.space.{name}: no configuration key {key!r}{hint}; {suggest(key, list(known))}"
                )
        for value in parameter.sample_values():
            conditions = {k: (v[0] if isinstance(v, list) else v) for k, v in (parameter.when or {}).items()}
            over = spaces.overrides(search.space, {**conditions, name: value})
            try:
                trial_config(merge(tree, nest(over)), f"{where}.space.{name}")
            except UserError as error:
                if "valid integer" in str(error):
                    raise UserError(f"{error}; search whole numbers with `int: [low, high]`, or a `choice`") from None
                raise


def first_choices(plan: Plan) -> list[dict[str, Any]]:
    """``search.enqueue`` as choices of parameters: the base's own values where they lie in the space."""
    search, base = plan.loaded.spec.search, plan.search_base
    if search is None or base is None:
        return []
    written = [
        {name: search.space[name].match(value) for name, value in choice.items()}
        for choice in search.enqueue
        if isinstance(choice, dict)
    ]
    its = _choice_of(base, search) if "base" in search.enqueue else None
    return [*([its] if its else []), *written]


def known_choices(plan: Plan, configs: Iterable[TrialConfig]) -> list[dict[str, Any]]:
    """Choices of parameters whose cells these configurations are; others are passed over."""
    search, found = plan.loaded.spec.search, []
    for config in configs if search is not None else ():
        assert search is not None
        chosen = _choice_of(config, search)
        if chosen is not None and search_cell(plan, chosen).config == config:
            found.append(chosen)
    return found


def _choice_of(base: TrialConfig, search: Search) -> dict[str, Any] | None:
    """The values that a configuration has for the parameters of a space; None if it does not lie in it."""
    values = flatten(_tree(base))
    chosen: dict[str, Any] = {}
    for name in spaces.ordered(search.space):
        parameter = search.space[name]
        if not spaces.active(parameter, chosen):
            continue
        targets = parameter.targets(name)
        its = {repr(values.get(key)) for key in targets}
        if not targets or len(its) != 1 or (value := parameter.match(values.get(targets[0]))) is None:
            return None
        chosen[name] = value
    return chosen


def _check_enqueued(search: Search, tree: Overrides, where: str) -> None:
    """Every choice is of parameters that there are, with values that they may have, and valid; raises ``UserError``."""
    for i, choice in enumerate(search.enqueue):
        for name, value in choice.items() if isinstance(choice, dict) else ():
            if name not in search.space:
                raise UserError(f"{where}.enqueue[{i}]: no parameter {name!r}; {suggest(name, list(search.space))}")
            if search.space[name].match(value) is None:
                raise UserError(
                    f"{where}.enqueue[{i}]: {name} = {value!r}: not in its space ({search.space[name].describe()})"
                )
        if isinstance(choice, dict):
            trial_config(merge(tree, nest(spaces.overrides(search.space, choice))), f"{where}.enqueue[{i}]")


def search_cell(plan: Plan, chosen: Mapping[str, Any], nth: int = 0) -> Cell:
    """The cell of one choice of parameters with its ``nth`` seed, trained without the validation images.

    Raises ``UserError``.
    """
    search = plan.loaded.spec.search
    assert search is not None and plan.search_base is not None
    over = spaces.overrides(search.space, chosen)
    tree = merge(_tree(plan.search_base), nest({**over, "seed": search.trial_seeds[nth]}))
    config = trial_config(tree, f"{plan.loaded.file}: search trial {dict(chosen)}")
    return cell_of(config, keep_final=False)


def search_data(plan: Plan) -> list[TrialConfig]:
    """A configuration for every content of the data that a search may train on or confirm with."""
    search = plan.loaded.spec.search
    if search is None or plan.search_base is None:
        return []
    configs = [plan.search_base]
    for name, parameter in search.space.items():
        if any(key.startswith("data.") for key in parameter.targets(name)):
            conditions = {k: v[0] if isinstance(v, list) else v for k, v in (parameter.when or {}).items()}
            configs += [search_cell(plan, {**conditions, name: v}).config for v in parameter.values() or []]
    return configs


def confirm_cells(plan: Plan, chosen: Mapping[str, Any]) -> list[Cell]:
    """The cells that confirm a winner: nothing held out, fresh seeds, evaluated on the test set at the last epoch."""
    search = plan.loaded.spec.search
    assert search is not None and search.confirm is not None
    tree = merge(_tree(search_cell(plan, chosen).config), nest({"data.val_per_class": 0}))
    tree["evaluation"] = nest(plan.loaded.spec.base).get("evaluation", {})
    return [make_cell(tree, seed, f"{plan.loaded.file}: search.confirm") for seed in seed_list(search.confirm.seeds)]


def _tree(config: TrialConfig) -> Overrides:
    return config.model_dump(mode="json")
