"""Cells, rows and plans: what a sweep is going to run, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ltsearch.store.ids import cell_id
from ltsearch.store.records import PlannedCell, PlannedRow, Published
from ltsearch.study.overrides import merge, nest
from ltsearch.study.spec import Loaded, Overrides, Resources, trial_config
from trainables.config import TrialConfig


@dataclass(frozen=True)
class Cell:
    """One trial: a configuration with its id."""

    id: str
    config: TrialConfig
    keep_final: bool = True  # weights.pt and final.npz
    requires: tuple[Cell, ...] = ()  # whose final weights it starts from or learns from: they run first

    @property
    def seed(self) -> int:
        """The seed it trains with."""
        return self.config.seed


@dataclass(frozen=True)
class PlanRow:
    """A row of the ablation table: one configuration, a cell for every seed that it may get."""

    name: str
    predict: str
    changes: dict[str, Any]
    cells: tuple[Cell, ...]
    published: Published | None = None
    setting: str = ""
    components: tuple[str, ...] = ()
    pure: bool = False  # nothing but components differs from base
    beyond: dict[str, Any] = field(default_factory=dict)
    priority: int = 0  # higher ones are trained first
    also: tuple[str, ...] = ()  # rows of designs or the grid with the same configuration, which are not shown

    @property
    def label(self) -> str:
        """The name, with the setting where there are several."""
        return f"{self.name} ({self.setting})" if self.setting else self.name

    def record(self) -> PlannedRow:
        """For ``plan.json``."""
        config = self.cells[0].config.model_dump(mode="json", exclude={"seed", "evaluation"})
        return PlannedRow(
            name=self.name,
            predict=self.predict,
            changes=self.changes,
            cells=[PlannedCell(cell=c.id, seed=c.seed) for c in self.cells],
            published=self.published,
            config=config,
            setting=self.setting,
            components=list(self.components),
            pure=self.pure,
            beyond=self.beyond,
            requires=list(dict.fromkeys(r.id for c in self.cells for r in c.requires)),
            also=list(self.also),
        )


@dataclass(frozen=True)
class Plan:
    """Everything a sweep runs. ``search_base`` is the configuration that the search varies."""

    loaded: Loaded
    rows: tuple[PlanRow, ...]
    reference: str | None
    search_base: TrialConfig | None

    @property
    def cells(self) -> list[Cell]:
        """The ablation's cells and what they require, each once.

        Rows of a higher priority first; then seed by seed, so that every row has its first seed early; and what is required
        before what requires it.
        """
        unique: dict[str, Cell] = {}
        for priority in sorted({row.priority for row in self.rows}, reverse=True):
            rows = [row for row in self.rows if row.priority == priority]
            for number in range(max(len(row.cells) for row in rows)):
                for row in rows:
                    if number < len(row.cells):
                        for cell in (*first(row.cells[number]), row.cells[number]):
                            unique.setdefault(cell.id, cell)
        return list(unique.values())

    def with_seeds(self, counts: Mapping[str, int]) -> Plan:
        """The plan with the first so many seeds of every row, by label; rows that are not named keep all."""
        rows = (replace(row, cells=row.cells[: counts.get(row.label, len(row.cells))]) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def with_resources(self, resources: Resources) -> Plan:
        """The plan whose trials hold this."""
        spec = self.loaded.spec.model_copy(update={"resources": resources})
        return replace(self, loaded=self.loaded.model_copy(update={"spec": spec}))


def make_cell(tree: Overrides, seed: int, where: str, keep_final: bool = True) -> Cell:
    """A checked cell with what it requires; raises ``UserError``."""
    config = trial_config({**tree, "seed": seed}, where)
    return cell_of(config, keep_final)


def cell_of(config: TrialConfig, keep_final: bool = True) -> Cell:
    """The cell of a checked configuration, with what it requires."""
    requires = tuple(cell_of(trial, True) for _, trial in config.method.requires(config))
    return Cell(cell_id(config), config, keep_final, requires)


def first(cell: Cell) -> list[Cell]:
    """All that must have run before a cell, in an order in which it can run."""
    return list({part.id: part for required in cell.requires for part in (*first(required), required)}.values())


def required_label(cell: Cell) -> str:
    """How a trial is shown that only comes first."""
    return f"first {cell.config.method.name} · seed {cell.seed}"


def switched(base: Overrides, loaded: Loaded, components: Sequence[str], over: Mapping[str, Any]) -> Overrides:
    """A configuration with components switched on, and keys set on top."""
    tree = base
    for name in components:
        assert loaded.spec.ablation is not None
        tree = merge(tree, nest(loaded.spec.ablation.components[name]))
    return merge(tree, nest(over))
