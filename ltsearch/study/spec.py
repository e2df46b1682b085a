"""The sweep spec: one YAML file, read into one typed model.

``load`` applies a profile and ``--set`` on top of the file, checks everything that can be checked without data, and raises
``UserError`` naming file, key, value and what is allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ltsearch.store.records import (
    LONGEST_NAME,
    NAME,
    Claim,
    FigureRequest,
    PairedTest,
    Published,
    PublishedTable,
    is_name,
)
from ltsearch.study.messages import explain, suggest
from ltsearch.study.overrides import nest
from ltsearch.study.search import SEARCH_METRICS, Search
from ltsearch.study.seeds import MOST_SEEDS, seed_list
from ltsearch.study.tree import apply, read_study
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.methods import DEFAULT_METHOD, METHODS, options_class
from trainables.section import Checked

Overrides = dict[str, Any]
MOST_ROWS, MOST_CELLS = 10_000, 100_000


class Row(Checked):
    """One explicit row: ``base`` with components switched on, then ``set`` on top."""

    name: str
    with_: list[str] = Field([], alias="with", description="components that are on")
    set: Overrides = Field({}, description="overrides of base, dotted or nested")
    set_in: dict[str, Overrides] = Field(
        {}, description="further overrides in settings whose name fits a pattern with * and ?"
    )
    predict: Literal["single", "ensemble"] = Field("single", description="whose top-1 is the row's headline")
    priority: int = Field(0, description="cells of rows with a higher one are trained first")
    published: Published | None = Field(None, description="the published number this row answers to")


class Grid(Checked):
    """Every combination of the axes' values."""

    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(description="values by configuration key")
    with_: list[str] = Field([], alias="with")
    set: Overrides = {}
    predict: Literal["single", "ensemble"] = "single"


class Ablation(Checked):
    """Rows from a grammar; all take the same seeds."""

    components: dict[str, Overrides] = Field({}, description="what switching a component on overrides; null drops one")
    designs: list[Literal["add_one_in", "leave_one_out", "cumulative", "factorial"]] = []
    rows: list[Row] = []
    grid: Grid | None = None
    settings: dict[str, Overrides] = Field(
        {},
        description="all rows once in each of these, such as data sets: a table each; null drops one",
    )
    axis: list[str] = Field(
        [],
        description="keys in which rows may differ, in others they are flagged; none: method, model.experts, "
        "augmentation.copies, and what components and the grid set",
    )
    base_name: str = Field("base", description="what designs call the row without components")
    reference: str | None = Field(None, description="the row that differences are taken to; none: the first")
    published: dict[str, Published] = Field({}, description="published numbers of rows that designs make, by row name")

    @field_validator("components", "settings", mode="before")
    @classmethod
    def _drop(cls, value: Any) -> Any:
        """``null`` drops what an extended file, or the study itself under a profile, has."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        switched = [(f"rows[{i}].with", row.with_) for i, row in enumerate(self.rows)]
        switched += [("grid.with", self.grid.with_)] if self.grid is not None else []
        for where, chosen in switched:
            for component in chosen:
                if component not in self.components:
                    raise ValueError(
                        f"{where}: no component {component!r}; {suggest(component, list(self.components))}"
                    )
        if self.designs and not self.components:
            raise ValueError("designs need components")
        if not (self.designs or self.rows or self.grid):
            raise ValueError("an ablation needs rows, designs or a grid")
        if self.number_of_rows() > MOST_ROWS:
            raise ValueError(
                f"the designs and the grid make {self.number_of_rows():.3g} rows, at most {MOST_ROWS} are planned; name fewer "
                "components, values or settings, or search over them"
            )
        return self

    def number_of_rows(self) -> int:
        """As many as there are before rows that are the same are put together."""
        parts, each = len(self.components), {"add_one_in": 1, "leave_one_out": 1, "cumulative": 1}
        made = sum(parts + each[design] if design in each else 2**parts for design in self.designs)
        combined = math.prod(map(len, self.grid.axes.values())) if self.grid is not None else 0
        return (len(self.rows) + made + combined) * max(len(self.settings), 1)


ACCELERATOR = "accelerator_type:"  # before the type, the name of what Ray gives nodes with such GPUs


class Resources(Checked):
    """What one trial holds. Never part of a cell's identity."""

    auto: bool = Field(
        False,
        description="how many trials a GPU or machine trains at once, and with how many threads, is timed when the sweep "
        "starts; `resources: auto` for short",
    )
    workers: int = Field(1, ge=1, description="data-parallel workers of a trial; its numbers do not depend on it")
    placement: Literal["pack", "spread"] = Field("pack", description="workers of a trial on few nodes, or on many")
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    memory_per_worker: float | None = Field(
        None, gt=0, le=1e6, description="GiB of its node's memory that a worker reserves; none: nothing is reserved"
    )
    accelerator: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="only on nodes with GPUs of this type, as Ray names it: A100, H100, L4"
    )
    labels: dict[str, str] = Field(
        {},
        description="only on nodes with these labels (`ray start --labels`, KubeRay, or Ray's own, such as ray.io/market-type)",
    )
    images: Literal["map", "files", "pack"] = Field(
        "map",
        description="of sets that stay on disk; map: decoded once into one file; files: decoded from their own files whenever "
        "they are needed, which takes no room; pack: copied once into a few files, and decoded from there",
    )
    max_concurrent: int | None = Field(None, ge=1, description="trials at once; none: as many as fit")
    max_failures: int = Field(2, ge=0, description="how often a failed trial goes on from its checkpoint")
    checkpoint_seconds: float = Field(
        30,
        ge=0,
        description="written when the last is older: after an epoch, once a minute inside a long one; 0: every epoch",
    )
    hang_seconds: float | None = Field(
        1800,
        gt=0,
        le=31_536_000,
        description="a trial that finishes no epoch for so long, and for ten times its longest one, is ended and goes on from "
        "its checkpoint (before its first: for ten times so long); none: never",
    )

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, value: Any) -> Any:
        return {"auto": True} if value == "auto" else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        said = {"workers", "cpus_per_worker", "gpus_per_worker", "memory_per_worker"} & self.model_fields_set
        set_apart = sorted(name for name in said if getattr(self, name) != type(self).model_fields[name].default)
        if self.auto and set_apart:
            raise ValueError(
                f"auto finds out what a trial of one worker holds: leave {', '.join(set_apart)} out (`resources: auto` undoes "
                "what lies below it), or put `auto: false` beside it"
            )
        return self

    def need(self) -> dict[str, float]:
        """What one worker holds, by Ray's names; memory in bytes."""
        need = {"CPU": self.cpus_per_worker, "GPU": self.gpus_per_worker}
        if self.memory_per_worker is not None:
            need["memory"] = float(int(self.memory_per_worker * 2**30))
        if self.accelerator is not None:
            need[f"{ACCELERATOR}{self.accelerator}"] = 0.001  # that the node has some: Ray's own way
        return need


class Tracking(Checked):
    """MLflow."""

    uri: str | None = Field(None, description="none: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db")
    experiment: str | None = Field(None, description="none: the name of the spec")


class Precision(Checked):
    """How well differences are to be known."""

    ci_halfwidth: float = Field(
        gt=0, description="percentage points: half the 95 % intervals of all differences to the reference"
    )


class AdaptiveSeeds(Checked):
    """As many seeds as intervals of a given width need, by the spread of the first (Stein's two-stage rule)."""

    min: int = Field(5, ge=2, description="seeds that every row gets, and whose spread decides")
    max: int = Field(10, le=MOST_SEEDS, description="seeds that no row exceeds")
    until: Precision

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max = {self.max} must be >= min = {self.min}")
        return self


class ReportOptions(Checked):
    """How the report is written."""

    title: str | None = None
    folder: str = Field("results", description="reports go to <folder>/<sweep>/report.md")
    notes: str | None = Field(None, description="Markdown that is put below the question")
    figures: list[FigureRequest] = []
    published: list[PublishedTable] = Field([], description="published tables that are printed beside our rows")
    paired_tests: list[PairedTest] = Field([], description="McNemar's test of two rows, per image and per class")
    claims: list[Claim] = Field(
        [],
        description="what the report begins with; none: the differences to the reference that published rows have in print",
    )


class SweepSpec(Checked):
    """A study: what is trained, which rows are compared, what is searched, on what."""

    extends: str | list[str] | None = Field(None, description="files, relative to this one, that this one overrides")
    name: str = Field(pattern=f"^{NAME}$", max_length=LONGEST_NAME, description="letters, digits, _ . -")
    question: str = Field("", description="what the study answers; stands at the top of the report")
    base: Overrides = Field({}, description="a TrialConfig; keys dotted or nested")
    seeds: int | list[int] | AdaptiveSeeds = Field(
        3, description="how many, from 0 on, or which, or `{min, max, until: {ci_halfwidth}}`"
    )
    ablation: Ablation | None = None
    search: Search | None = None
    resources: Resources = Resources()
    tracking: Tracking = Tracking()
    report: ReportOptions = ReportOptions()
    profiles: dict[str, Overrides] = Field({}, description="overrides of this file, chosen by --profile")

    @model_validator(mode="after")
    def _check(self) -> Self:
        seeds = self.seed_numbers()
        if self.search is not None and self.search.max_gpu_hours is not None and self.resources.auto:
            raise ValueError(
                "search.max_gpu_hours needs to know what of a GPU a trial holds, which `resources: auto` finds out later; set "
                "search.max_hours (of training), or resources.gpus_per_worker"
            )
        if self.search is not None and self.search.max_gpu_hours is not None and not self.resources.gpus_per_worker:
            raise ValueError(
                f"search.max_gpu_hours = {self.search.max_gpu_hours} goes with resources.gpus_per_worker > 0; set "
                "search.max_hours, or `max_gpu_hours: null` in a profile without GPUs"
            )
        if self.ablation is not None and self.ablation.number_of_rows() * len(seeds) > MOST_CELLS:
            raise ValueError(
                f"{self.ablation.number_of_rows()} rows with {len(seeds)} seeds each: at most {MOST_CELLS} cells are planned; "
                "name fewer rows or seeds"
            )
        if self.ablation is None and self.search is None:
            raise ValueError("a study needs an `ablation`, a `search` or both")
        if self.search is not None:
            if "custom" not in nest(self.base):  # a trainable of the user's own has metrics of its own
                asked = [("metrics: name", metric.name) for metric in self.search.metrics]
                asked += [("constraints: metric", one.metric) for one in self.search.constraints]
                for where, name in asked:
                    if name not in SEARCH_METRICS:
                        raise ValueError(f"search.{where} = {name!r}: {suggest(name, SEARCH_METRICS)}")
            known = list(self.ablation.components) if self.ablation else []
            for component in self.search.with_:
                if component not in known:
                    raise ValueError(f"search.with: no component {component!r}; {suggest(component, known)}")
        return self

    def seed_numbers(self) -> list[int]:
        """Every seed that a row may get."""
        return list(range(self.seeds.max)) if isinstance(self.seeds, AdaptiveSeeds) else seed_list(self.seeds)


def trial_config(tree: Overrides, where: str) -> TrialConfig:
    """A checked configuration; raises ``UserError``."""
    try:
        return TrialConfig.model_validate(tree)
    except ValidationError as error:
        method = tree.get("method")
        name = method.get("name", DEFAULT_METHOD) if isinstance(method, dict) else None
        special = {"method": options_class(name)} if isinstance(name, str) and name in METHODS else None
        raise explain(error, TrialConfig, where, special) from None


class Loaded(BaseModel):
    """A spec with where it came from."""

    model_config = ConfigDict(frozen=True)

    spec: SweepSpec
    file: str
    profile: str | None
    command: str = ""  # as it was typed, for the report

    @property
    def sweep(self) -> str:
        """``name`` or ``name@profile``: what runs, results and locks are called."""
        return f"{self.spec.name}@{self.profile}" if self.profile else self.spec.name


def load(
    file: Path, profile: str | None = None, assignments: Sequence[Overrides] = (), seeds: int | list[int] | None = None
) -> Loaded:
    """Read a spec, with a profile, ``--set`` and ``--seeds`` on top; raises ``UserError``."""
    return from_tree(read_study(file), str(file), profile, assignments, seeds)


def from_tree(
    tree: dict[str, Any],
    file: str,
    profile: str | None = None,
    assignments: Sequence[Overrides] = (),
    seeds: int | list[int] | None = None,
) -> Loaded:
    """The same of a mapping that has been read; ``file`` is what messages call it."""
    profiles = tree.get("profiles") or {}
    if profile is not None:
        if not isinstance(profiles, dict) or profile not in profiles:
            known = ", ".join(map(str, profiles)) if isinstance(profiles, dict) and profiles else "none"
            raise UserError(f"{file}: --profile {profile!r}: no such profile; known: {known}")
    # The file itself and each profile are checked, not only the one that runs.
    merged = tree
    for name, over in profiles.items() if isinstance(profiles, dict) else ():
        if not is_name(name):
            raise UserError(
                f"{file}: profiles.{name!r}: results, search and locks lie in folders of this name: use letters, digits, _ . "
                f"-, beginning with a letter or digit, at most {LONGEST_NAME}"
            )
        if not isinstance(over, dict):
            raise UserError(f"{file}: profiles.{name}: must be a mapping of overrides")
        if name == profile:
            merged = apply(tree, over)
        else:
            _check_profile(file, name, apply(tree, over))
    for assignment in assignments:
        merged = apply(merged, assignment)
    if seeds is not None:
        merged["seeds"] = seeds
    try:
        spec = SweepSpec.model_validate(merged)
    except ValidationError as error:
        raise explain(error, SweepSpec, file) from None
    return Loaded(spec=spec, file=file, profile=profile)


def _check_profile(file: str, name: str, tree: dict[str, Any]) -> None:
    """A profile that does not run now is to be right too; raises ``UserError``."""
    where = f"{file}: profiles.{name}"
    try:
        spec = SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise explain(error, SweepSpec, where) from None
    trial_config(nest(spec.base), f"{where}: base")
