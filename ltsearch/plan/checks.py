"""Rules between the parts of a study that can be told without its data: what would be found only after training."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ltsearch.plan.placement import check_workers
from ltsearch.study import space as spaces
from ltsearch.study.messages import suggest
from ltsearch.study.overrides import flatten, merge, nest
from ltsearch.study.spec import Loaded, Overrides, trial_config
from trainables.errors import UserError

if TYPE_CHECKING:
    from ltsearch.plan.cells import PlanRow
    from trainables.config import TrialConfig

_EXAMPLES = 300  # choices of parameters, until a space is said to have no valid one


def check_figures(loaded: Loaded, rows: Sequence[PlanRow]) -> None:
    """Seeds and keys that figures and tests are to show must be those of a row; raises ``UserError``."""
    options, seeds = loaded.spec.report, loaded.spec.seed_numbers()
    asked = [(f"figures[{i}]", figure.seed) for i, figure in enumerate(options.figures)]
    asked += [(f"paired_tests[{i}]", test.seed) for i, test in enumerate(options.paired_tests)]
    for where, seed in asked:
        if seed is not None and seed not in seeds:
            raise UserError(
                f"{loaded.file}: report.{where}.seed = {seed}: no row has that seed; "
                f"seeds: {', '.join(map(str, seeds[:20]))}{' …' if len(seeds) > 20 else ''}"
            )
    for i, figure in enumerate(options.figures):
        if figure.x is None:
            continue
        shown = [row for row in rows if not figure.rows or row.name in figure.rows]
        keys = {
            k: v for row in shown for k, v in flatten(row.cells[0].config.model_dump(mode="json")).items() if _number(v)
        }
        if shown and figure.x not in keys:
            raise UserError(
                f"{loaded.file}: report.figures[{i}].x = {figure.x!r}: no row has a number under this key; "
                f"{suggest(figure.x, list(keys))}"
            )


def check_starts(config: TrialConfig, where: str) -> None:
    """Weights that a trial starts from must fit its network; raises ``UserError`` naming the tensors."""
    starts = [first for role, first in config.method.requires(config) if role == "start"]
    if any(first.model != config.model for first in starts):
        from trainables.trained import check_fit

        check_fit(config, where)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_together(loaded: Loaded, tree: Overrides, where: str) -> None:
    """Values that are fine one by one must give a valid configuration together, some of them at least; raises ``UserError``."""
    search, last = loaded.spec.search, ""
    assert search is not None
    for chosen in spaces.examples(search.space, _EXAMPLES):
        try:
            over = spaces.overrides(search.space, chosen)
            check_workers(loaded.spec.resources, [trial_config(merge(tree, nest(over)), where)])
            return
        except UserError as error:
            last = f"{dict(chosen)}: {str(error).removeprefix(f'{where}: ')}"
    raise UserError(
        f"{where}.space: no combination of its values is valid, of up to {_EXAMPLES} tried; the last, {last}"
    )


def check_patterns(loaded: Loaded) -> None:
    """Every pattern of ``set_in`` fits a setting of the study; profiles may drop some. Raises ``UserError``."""
    ablation = loaded.spec.ablation
    if ablation is None or loaded.profile is not None:
        return
    for i, row in enumerate(ablation.rows):
        for pattern in row.set_in:
            if not fnmatch.filter(ablation.settings, pattern):
                known = ", ".join(ablation.settings) or "none"
                raise UserError(
                    f"{loaded.file}: ablation.rows[{i}].set_in: no setting fits {pattern!r}; settings: {known}"
                )
