"""What a study says of its search: space, objectives, sampler, budget, early stopping, confirmation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ltsearch.store.records import SCORES, STEP_GMACS, TRAIN, VAL
from ltsearch.study.seeds import seed_list
from ltsearch.study.space import Parameter, Scalar, check_space
from trainables.section import Checked

SEARCH_METRICS = (
    *(f"{VAL}{score}" for score in SCORES),
    f"{TRAIN}loss",
    f"{TRAIN}top1",
    "seconds",
    STEP_GMACS,
    "peak_memory_bytes",
)


class Metric(Checked):
    """An objective of the search."""

    name: str = f"{VAL}ensemble_class_mean"
    mode: Literal["max", "min"] = "max"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name.startswith("test/"):
            raise ValueError(f"name = {self.name!r}: a search never sees the test set; use {VAL}{self.name[5:]}")
        return self


class Constraint(Checked):
    """What a configuration must keep to: one that does not wins nothing, and tpe, gp and nsga2 look elsewhere."""

    metric: str = Field(
        description="of the last epoch: any objective, `seconds`, `cost/step_gmacs`, `peak_memory_bytes`"
    )
    max: float | None = None
    min: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.max is None) == (self.min is None):
            raise ValueError("must have exactly one of max and min")
        if self.metric.startswith("test/"):
            raise ValueError(f"metric = {self.metric!r}: a search never sees the test set; use {VAL}{self.metric[5:]}")
        return self

    def violation(self, value: float | None) -> float:
        """By how much a value is beyond it; at most 0 if it is not. What is not there is beyond it."""
        if value is None:
            return 1.0
        return value - self.max if self.max is not None else (self.min or 0.0) - value

    def describe(self) -> str:
        """``seconds ≤ 60``."""
        return f"{self.metric} ≤ {self.max:g}" if self.max is not None else f"{self.metric} ≥ {self.min:g}"


class EarlyStopping(Checked):
    """When a trial is stopped: ASHA (Li et al., MLSys 2020), Hyperband (JMLR 2018), below the median, without progress.

    Wilcoxon's test stops a trial of several seeds between two of them, once it is worse than the best on those that both have.
    """

    rule: Literal["asha", "hyperband", "median", "patience", "wilcoxon"] = "asha"
    grace_epochs: int = Field(1, ge=1, description="no trial is stopped before this epoch")
    reduction_factor: int = Field(3, ge=2, description="asha, hyperband: one in so many goes on from each rung")
    startup_trials: int = Field(5, ge=1, description="median: no trial is stopped before so many have ended")
    epochs_without_progress: int = Field(
        10, ge=1, description="patience: so many epochs that stay below the best before them"
    )
    min_delta: float = Field(0.0, ge=0, description="patience: by more than this")
    p_threshold: float = Field(0.1, gt=0, le=1, description="wilcoxon: stopped below this p")

    @model_validator(mode="after")
    def _check(self) -> Self:
        rules = {"reduction_factor": ("asha", "hyperband"), "startup_trials": ("median",)}
        rules |= dict.fromkeys(("epochs_without_progress", "min_delta"), ("patience",))
        rules |= {"p_threshold": ("wilcoxon",), "grace_epochs": ("asha", "hyperband", "median", "patience")}
        for option, its in rules.items():
            if option in self.model_fields_set and self.rule not in its:
                raise ValueError(f"{option} goes with rule {' or '.join(its)}, not {self.rule!r}; leave it out")
        return self

    def describe(self) -> str:
        """For the plan and the report."""
        match self.rule:
            case "median":
                return f"median (grace {self.grace_epochs}, after {self.startup_trials} trials)"
            case "wilcoxon":
                return f"Wilcoxon's test between seeds (p < {self.p_threshold:g})"
            case "patience":
                return f"patience ({self.epochs_without_progress} epochs without progress, grace {self.grace_epochs})"
            case _:
                name = "ASHA" if self.rule == "asha" else "Hyperband"
                return f"{name} (grace {self.grace_epochs}, factor {self.reduction_factor})"


class Confirm(Checked):
    """Winners are trained again, without taking validation out, and evaluated on the test set once."""

    top_k: int = Field(3, ge=1)
    seeds: int | list[int] = Field(3, description="how many, from 0 on, or which")


# How long it goes on: the same search goes on if they are raised.
BUDGET = {"trials", "max_hours", "max_gpu_hours", "max_wall_hours", "target"}


class Search(Checked):
    """A search with Optuna over any configuration keys."""

    space: Annotated[dict[str, Parameter], Field(min_length=1)]
    with_: list[str] = Field([], alias="with", description="components of the ablation that are on")
    set: dict[str, Any] = {}
    metrics: Annotated[list[Metric], Field(min_length=1)] = [Metric()]
    constraints: list[Constraint] = Field([], description="what winners must keep to")
    sampler: Literal["tpe", "gp", "random", "cmaes", "nsga2"] = "tpe"
    seeds_per_trial: int = Field(
        1, ge=1, le=100, description="a trial is the mean over so many seeds, trained one after another"
    )
    trials: int = Field(20, ge=1, le=1_000_000, description="configurations that are tried, pruned ones included")
    max_hours: float | None = Field(
        None, gt=0, description="no trial is started once those that ended have trained so long"
    )
    max_gpu_hours: float | None = Field(None, gt=0, description="the same, times the GPUs that a trial holds")
    max_wall_hours: float | None = Field(
        None, gt=0, description="no trial is started once the search has run so long, by the clock"
    )
    target: float | None = Field(None, description="no trial is started once the metric has reached this")
    early_stopping: EarlyStopping | None = Field(EarlyStopping(), description="none: every trial runs all its epochs")
    val_per_class: int = Field(ge=1, description="validation images a class, taken out of the training pool")
    seed: int = Field(0, ge=0, description="every random choice of the search derives from it")
    trial_seed: int = Field(
        1000, ge=0, lt=2**31, description="the (first) seed that trials train with; confirm uses others"
    )
    enqueue: list[Literal["base"] | dict[str, Scalar]] = Field(
        ["base"],
        description="what is tried first: the setting of `base` (left out if it does not lie in the space), and choices of "
        "parameters; those that a choice leaves open are proposed",
    )
    warm_start: bool = Field(
        False,
        description="a search that begins is told of cells that the storage has already and whose configuration lies in its "
        "space, from whatever study: they cost nothing and do not count as trials",
    )
    repeat_configurations: bool = Field(False, description="true: a discrete space may run one configuration again")
    confirm: Confirm | None = Confirm()

    @property
    def trial_seeds(self) -> range:
        """The seeds of a trial."""
        return range(self.trial_seed, self.trial_seed + self.seeds_per_trial)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_space(self.space)
        several = len(self.metrics) > 1
        if several and self.early_stopping is not None:
            raise ValueError("early_stopping works on one metric; with several set `early_stopping: null`")
        if several and self.sampler in ("cmaes",):
            raise ValueError(f"sampler = {self.sampler!r} takes one metric; use nsga2, tpe, gp or random for several")
        if several and self.target is not None:
            raise ValueError("target goes with one metric")
        if self.sampler == "cmaes" and any(p.choice is not None or p.when for p in self.space.values()):
            raise ValueError("sampler = 'cmaes' takes unconditional numeric parameters only; use tpe, gp or random")
        if self.sampler == "gp" and any(p.when for p in self.space.values()):
            raise ValueError("sampler = 'gp' takes unconditional parameters only; use tpe or random")
        if self.confirm is not None and self.confirm.top_k > self.trials:
            raise ValueError(
                f"confirm.top_k = {self.confirm.top_k} is more than the {self.trials} trials that there will be"
            )
        if self.confirm is not None:
            both = set(seed_list(self.confirm.seeds)) & set(self.trial_seeds)
            if both:
                raise ValueError(f"trial_seed = {min(both)} is among confirm.seeds; winners need fresh seeds")
        by_seeds = self.early_stopping is not None and self.early_stopping.rule == "wilcoxon"
        if self.seeds_per_trial > 1 and self.early_stopping is not None and not by_seeds:
            raise ValueError(
                f"seeds_per_trial = {self.seeds_per_trial} trains every seed to its end: set early_stopping to "
                "`{rule: wilcoxon}`, which stops a trial between two seeds, or to null"
            )
        if by_seeds and self.early_stopping is not None:
            threshold, enough = self.early_stopping.p_threshold, 2
            while 0.5 ** (enough - 1) >= threshold:  # the smallest p of the test between the last two seeds
                enough += 1
            if self.seeds_per_trial < enough:
                raise ValueError(
                    f"early_stopping.rule = 'wilcoxon' compares trials over seeds: with p_threshold = {threshold:g} it can "
                    f"stop one from seeds_per_trial = {enough} on, not {self.seeds_per_trial}"
                )
        if self.seeds_per_trial > 1 and self.warm_start:
            raise ValueError("warm_start goes with seeds_per_trial = 1")
        return self
