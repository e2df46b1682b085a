"""``import ltsearch``: a study in a script or a notebook. What the command does, with objects instead of files.

::

    study = ltsearch.load("search_spaces/digits_lt.yaml", set={"base.method.beta": 0.5}, seeds=2)
    study.plan()                 # what would run
    study.run()
    study.results()              # a pandas frame, one line a cell
    study.best()
    study.tables()["ablation"]
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltsearch import exit_codes, sweep
from ltsearch.plan.cells import Plan, PlanRow
from ltsearch.plan.layout import make_plan
from ltsearch.show import status
from ltsearch.store.cells import CellStore, storage_root
from ltsearch.store.records import headline
from ltsearch.study.options import RunOptions, parse_seeds
from ltsearch.study.overrides import nest_key
from ltsearch.study.spec import Loaded, from_tree
from ltsearch.study.spec import load as load_file
from trainables.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

IN_PYTHON = "a study in Python"  # its file, in messages


def load(
    study: str | Path | Mapping[str, Any],
    *,
    profile: str | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  as on the command line
    seeds: int | Sequence[int] | None = None,
    storage: str | None = None,
    data_root: str | None = None,
    tracking_uri: str | None = None,
    trainable: Callable[..., Any] | None = None,
) -> Study:
    """A study from its file, or from a mapping of what would stand in it; raises ``UserError``.

    ``set`` has values by dotted key. ``storage``, ``data_root`` and ``tracking_uri`` are as on the command line. ``trainable``
    is a generator of your own (``trainables.custom``); the study's ``base.custom`` has its parameters and version.
    """
    over = [nest_key(key, value) for key, value in (set or {}).items()]
    if trainable is not None:
        over.append({"base": {"custom": {"function": name_of(trainable)}}})
    numbers = parse_seeds(seeds) if isinstance(seeds, str) else list(seeds) if isinstance(seeds, Sequence) else seeds
    if isinstance(study, Mapping):
        loaded = from_tree(json.loads(json.dumps(dict(study))), IN_PYTHON, profile, over, numbers)
    else:
        loaded = load_file(Path(study), profile, over, numbers)
    said = [repr(str(study) if not isinstance(study, Mapping) else "…")]
    said += [f"{name}={value!r}" for name, value in {"profile": profile, "set": set, "seeds": seeds}.items() if value]
    options = RunOptions(storage=storage, data_root=data_root, tracking_uri=tracking_uri)
    command = f"ltsearch.load({', '.join(said)}).run()"
    return Study(loaded.model_copy(update={"command": command}), options, trainable)


def name_of(trainable: Callable[..., Any]) -> str:
    """``module:function``; raises ``UserError`` for what has no name to be known by."""
    module, name = getattr(trainable, "__module__", None), getattr(trainable, "__qualname__", "<lambda>")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        raise UserError(f"trainable = {trainable!r}: must be a function with a name of its own, not one inside another")
    return f"{module}:{name}"


@dataclass(frozen=True)
class Best:
    """A search's best trial, or an ablation's best row."""

    name: str
    metric: str
    value: float
    params: dict[str, Any]
    cells: tuple[str, ...]


class Said(str):
    """A text that a notebook shows as it is."""

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self)}</pre>"

    def __repr__(self) -> str:
        """Without quotes: it is to be read."""
        return str(self)


class Study:
    """A study, and what has become of it."""

    def __init__(self, loaded: Loaded, options: RunOptions, trainable: Callable[..., Any] | None = None) -> None:
        """See ``load``."""
        self.loaded, self.options = loaded, options
        self._given = {name_of(trainable): trainable} if trainable is not None else {}

    def __repr__(self) -> str:
        """Its name and size."""
        plan = self.layout
        search = f", a search of {self.loaded.spec.search.trials} trials" if self.loaded.spec.search is not None else ""
        return f"Study {self.name}: {len(plan.rows)} rows, {len(plan.cells)} cells{search}"

    @property
    def name(self) -> str:
        """``name`` or ``name@profile``."""
        return self.loaded.sweep

    @property
    def layout(self) -> Plan:
        """Rows and cells."""
        return make_plan(self.loaded)

    def plan(self) -> Said:
        """What would run here, as ``ltsearch plan`` prints it; raises ``UserError``."""
        return Said("\n".join(sweep.the_plan(self.layout, self.options)))

    def run(
        self, *, address: str | None = None, fresh: bool = False, retry: bool = False, ray_logs: bool = False
    ) -> Study:
        """Run what is missing, here or on the Ray cluster at ``address``, and write the report; itself.

        Raises ``UserError``; ``RuntimeError`` if cells have no result, which the output names: all others have theirs.
        """
        options = {**vars(self.options), "address": address, "fresh": fresh, "retry": retry, "ray_logs": ray_logs}
        with sweep.terminable():
            code = sweep.sweep(self.loaded, RunOptions(**options), self._given)
        if code != exit_codes.DONE:
            raise RuntimeError(f"{self.name}: some cells have no result; results() has those of the others")
        return self

    def status(self) -> Said:
        """How its last run stands, from wherever it runs on the same storage; raises ``UserError`` if it never ran."""
        store = CellStore(storage_root(self.options.storage))
        found = status.read(store.sweep_folder(self.name))
        if found is None:
            raise UserError(f"{self.name}: never run on --storage {store.root}")
        return Said(status.render(found))

    def results(self) -> pd.DataFrame:
        """One line a cell and row; raises ``UserError`` if nothing has finished."""
        found: pd.DataFrame = self._objects("frame")
        return found

    def tables(self) -> dict[str, Any]:
        """The ablation's tables by name, which a notebook shows as they stand in the report."""
        found: dict[str, Any] = self._objects("tables")
        return found

    def figures(self) -> dict[str, Figure]:
        """Matplotlib figures by kind."""
        found: dict[str, Figure] = self._objects("figures")
        return found

    def best(self) -> Best:
        """The search's best trial by its first metric, or without a search the row with the best mean over its seeds."""
        search = self._objects("search")
        if search is not None and search.best:
            trial = next(trial for trial in search.trials if trial.number == search.best[0])
            return Best(f"trial {trial.number}", search.metrics[0], trial.values[0], trial.params, (trial.cell,))
        found = [best for row in self.layout.rows if (best := self._best_of(row, self.results())) is not None]
        if not found:
            raise UserError(f"{self.name}: neither a trial of a search nor a row of the ablation has a result")
        return max(found, key=lambda best: best.value)

    @staticmethod
    def _best_of(row: PlanRow, frame: pd.DataFrame) -> Best | None:
        """A row's mean over its seeds."""
        metric, cells = headline(row.predict), tuple(cell.id for cell in row.cells)
        if metric not in frame:
            return None
        values = frame[frame["cell"].isin(cells)].drop_duplicates("cell")[metric].dropna()
        return Best(row.label, metric, float(values.mean()), row.changes, cells) if len(values) else None

    def _objects(self, what: str) -> Any:
        """``analysis`` is loaded by name: nothing here depends on it."""
        from ltsearch.tracking.server import resolve_uri

        uri = resolve_uri(self.options.tracking_uri, self.loaded.spec.tracking.uri)
        source = import_module("analysis.report").find_source(self.name, self.options.storage, uri)
        return getattr(import_module("analysis.objects"), what)(self.name, source)
