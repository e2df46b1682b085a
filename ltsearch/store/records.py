"""Names of results, shared by what writes them (``ltsearch``) and what reads them (``analysis``).

Imports nothing heavy: a reader needs neither Ray nor torch.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Studies and profiles; a sweep is called after both, and so are its folders.
NAME, LONGEST_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*", 100


def is_name(text: object) -> bool:
    """May a study or a profile be called so?"""
    return isinstance(text, str) and len(text) <= LONGEST_NAME and re.fullmatch(NAME, text) is not None


def is_sweep(text: str) -> bool:
    """Is it a study, or ``<study>@<profile>``?"""
    return all(map(is_name, text.split("@", 1)))


# MLflow tags
TAG_ROLE = "ltsearch.role"  # "sweep" or "trial"
TAG_SWEEP = "ltsearch.sweep"  # <name>[@profile]
TAG_STAGE = "ltsearch.stage"  # ablation, required, search, confirm
TAG_CELL = "ltsearch.cell"
TAG_ROW = "ltsearch.row"
TAG_SEED = "ltsearch.seed"
TAG_STATUS = "ltsearch.status"
TAG_ERROR = "ltsearch.error"
TAG_EPOCHS = "ltsearch.epochs"
TAG_STARTED = "ltsearch.started"  # when the cell was first started: another start is another run
TAG_FINGERPRINT = "ltsearch.dataset_fingerprint"
TAG_RECIPES = "ltsearch.recipes"
TAG_TIMED = "ltsearch.timed"  # in which session and on which hardware it was trained
TAG_HEARTBEAT = "ltsearch.heartbeat"  # seconds since 1970, on the sweep's run
TAG_PARENT = "mlflow.parentRunId"

# Artifacts of a sweep's run
PLAN_ARTIFACT = "plan.json"
SEARCH_ARTIFACT = "search.json"
RUNS_ARTIFACT = "runs.json"
# Artifacts of a trial's run
PER_CLASS_ARTIFACT = "per_class.json"
RECORD_ARTIFACT = "record.json"
FINAL_ARTIFACT = "final.npz"

# Metrics; every one of evaluation is prefixed with its split
VAL, TEST, TRAIN = "val/", "test/", "train/"
SINGLE_TOP1, SINGLE_TOP1_MAX = "single_top1", "single_top1_max"
SINGLE_TOP5, SINGLE_TOP5_MAX = "single_top5", "single_top5_max"
ENSEMBLE_TOP1, ENSEMBLE_TOP5 = "ensemble_top1", "ensemble_top5"
CLASS_MEAN, WORST_CLASS = "class_mean", "worst_class"  # ends of names, after single_ or ensemble_
CLASS_SUMMARIES = (CLASS_MEAN, "class_harmonic_mean", "class_geometric_mean", WORST_CLASS)
EXPERT_RIGHT, AVERAGE_RIGHT = "expert_right_average_wrong", "average_right_expert_wrong"  # images
SINGLE_ECE, ENSEMBLE_ECE = "single_ece", "ensemble_ece"
KL_EXPERTS, KL_COPIES = "kl_experts", "kl_copies"
GROUPS = ("many", "medium", "few")
# Rows and columns of ``shifted_single`` and ``shifted_ensemble`` in final.npz (trainables/shifted_test.py).
SHIFTED_FORMS = ("plain", "compensated")
SHIFTED_TESTS = (
    *(f"forward {factor}" for factor in (50, 25, 10, 5, 2)), "uniform", *(f"backward {factor}" for factor in (2, 5, 10, 25, 50))
)  # fmt: skip
BEST_ON_TEST = "best_epoch_on_test/"  # prefix: the best evaluated epoch, for comparing with numbers chosen that way
TEST_GMACS, TRAIN_GMACS, STEP_GMACS = "cost/test_gmacs", "cost/train_gmacs", "cost/step_gmacs"
PARAMETERS = "cost/parameters"
SECONDS, TOTAL_SECONDS, PEAK_MEMORY = "seconds", "total_seconds", "peak_memory_bytes"
IMAGES_PER_SECOND = "train/images_per_second"
SCORES = (
    SINGLE_TOP1,
    SINGLE_TOP1_MAX,
    SINGLE_TOP5,
    SINGLE_TOP5_MAX,
    ENSEMBLE_TOP1,
    ENSEMBLE_TOP5,
    SINGLE_ECE,
    ENSEMBLE_ECE,
    KL_EXPERTS,
    KL_COPIES,
    *(f"{setting}_{end}" for setting in ("single", "ensemble") for end in (*CLASS_SUMMARIES, *GROUPS)),
)


def headline(predict: str) -> str:
    """The metric that a row is about: the mean over classes, of one expert (mean over experts) or of their ensemble.

    On a balanced test set it is top-1 accuracy; on an unbalanced one, head classes do not decide it.
    """
    return f"{TEST}{predict}_{CLASS_MEAN}"


class Status(StrEnum):
    """How a cell stands. Only ``FINISHED`` enters a table."""

    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


# A cell in one of these is not run again by itself; failed and interrupted ones are.
SETTLED = frozenset({Status.FINISHED, Status.DIVERGED, Status.OUT_OF_MEMORY})


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore")  # a reader of today reads what tomorrow's writer adds to


class Epoch(_Record):
    """Metrics of one finished epoch."""

    model_config = ConfigDict(allow_inf_nan=False)  # what is not finite is absent

    epoch: int
    metrics: dict[str, float]


class CellRecord(_Record):
    """``record.json`` of a cell: the truth about one trial, from which MLflow can be rebuilt."""

    model_config = ConfigDict(allow_inf_nan=False)

    schema_version: int = 1
    cell: str
    config: dict[str, Any]
    recipes: dict[str, int]
    status: Status
    error: str | None = None
    fingerprint: str = ""
    class_counts: list[int] = []
    class_names: list[str] = []
    started: float = 0.0  # seconds since 1970
    ended: float | None = None
    history: list[Epoch] = []
    per_class: dict[str, list[float | None]] = {}
    provenance: dict[str, str] = {}

    @property
    def timed(self) -> str:
        """In which session and on which hardware: times of two that differ are not compared."""
        return "; ".join(self.provenance.get(key, "unknown") for key in ("session", "cpu", "gpu"))

    @property
    def final(self) -> dict[str, float]:
        """The last epoch's metrics, and the sum of the seconds of all."""
        if not self.history:
            return {}
        return {**self.history[-1].metrics, "total_seconds": sum(e.metrics.get(SECONDS, 0.0) for e in self.history)}


class Published(_Record):
    """A published number that a row answers to: a key into ``analysis/published``."""

    model_config = ConfigDict(extra="forbid")

    paper: str
    table: str
    row: str
    setting: str = "single"


FigureKind = Literal[
    "curve", "bars", "class_accuracy", "class_kl", "hardest_negative", "predictions", "tsne", "loss_weights",
    "shifted_test", "virtual_examples", "forest", "learning_curves", "accuracy_cost", "gain",
]  # fmt: skip


class _Request(_Record):
    """Something that a study asks its report to show; a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid")


class FigureRequest(_Request):
    """A figure of the report, over rows of the ablation."""

    kind: FigureKind = Field(
        description="curve: accuracy over a key; bars: accuracy by row; class_accuracy: of every class, by size; class_kl: "
        "distance between experts and between copies; hardest_negative: score of the strongest wrong class; predictions: "
        "two experts on one image; tsne: features; loss_weights: learned λ over epochs; shifted_test: accuracy under shifted "
        "test distributions, with its table; virtual_examples: DiVE's, by shot group; forest: differences to the reference; "
        "learning_curves: loss and accuracies over epochs; accuracy_cost: accuracy against a training step's cost; "
        "gain: difference between two `rows` against how well the second fits its training images, over settings"
    )
    caption: str = Field("", description="stands below the figure; none: what the kind is called")
    rows: list[str] = Field([], description="names of rows; none: all")
    setting: str | None = Field(
        None, description="of the ablation's settings; none: all (curve, bars, gain), else the first"
    )
    x: str | None = Field(None, description="curve: the configuration key on the horizontal axis")
    x_label: str | None = Field(None, description="curve: what the axis is called; none: the key")
    absent: float | None = Field(None, description="curve: x of a row whose method has no such key")
    predict: list[Literal["single", "ensemble"]] = Field(["single", "ensemble"], min_length=1)
    splits: list[Literal["all", "many", "medium", "few", "largest_class", "smallest_class"]] = Field(
        ["all"],
        min_length=1,
        description="curve, bars: of which classes, a panel each; largest, smallest: by training images",
    )
    seed: int | None = Field(None, description="tsne, predictions: which; none: the first that has finished")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.kind == "curve") != (self.x is not None):
            raise ValueError(f"x = {self.x!r}: a figure of kind 'curve', and no other, names the key `x` of its axis")
        if self.kind == "gain" and len(self.rows) != 2:
            raise ValueError(f"rows = {self.rows}: a figure of kind 'gain' takes two, such as [NCL++, control]")
        return self


class PublishedTable(_Request):
    """A published table that is printed beside the study's own rows."""

    paper: str
    table: str


def _two(row: str, reference: str) -> None:
    if row == reference:
        raise ValueError(f"row and reference are both {row!r}: name two")


class PairedTest(_Request):
    """McNemar's test of two rows on the same test images."""

    row: str
    reference: str
    setting: str | None = None
    seed: int | None = Field(None, description="none: all that both have finished")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _two(self.row, self.reference)
        return self


class Claim(_Request):
    """What the study tests: that a row is better than another. The report begins with whether it holds."""

    row: str
    reference: str
    claim: str = Field("", description="the sentence that is printed; none: “ROW is better than REFERENCE”")
    setting: str | None = Field(None, description="of the ablation's settings; none: the first")
    metric: Literal["accuracy", "many", "medium", "few", "ece"] = Field(
        "accuracy", description="of what the row predicts with; ece: expected calibration error, the smaller the better"
    )
    at_least: float = Field(0.0, ge=0, description="the smallest difference worth seeing, in points; none: any")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _two(self.row, self.reference)
        return self


class PlannedCell(_Record):
    """One seed of a row."""

    cell: str
    seed: int


class PlannedRow(_Record):
    """A row of the ablation table."""

    name: str
    predict: str  # single or ensemble: what its headline number is
    changes: dict[str, Any]  # what differs from base, by dotted key
    cells: list[PlannedCell]
    published: Published | None = None
    config: dict[str, Any] = {}  # the whole configuration, seed aside
    setting: str = ""  # which of the ablation's settings; rows of two settings never share a table
    components: list[str] = []  # that are on
    pure: bool = False  # nothing but components differs from base
    beyond: dict[str, Any] = {}  # what differs from the reference row beyond the studied axis, by dotted key
    requires: list[str] = []  # cells that had to be trained first
    also: list[str] = []  # rows of designs or the grid that have the same configuration, and are not shown

    @property
    def label(self) -> str:
        """The name, with the setting where there are several."""
        return f"{self.name} ({self.setting})" if self.setting else self.name


class PlanRecord(_Record):
    """``plan.json`` of a sweep's run: what the report is to show."""

    sweep: str
    name: str
    profile: str | None
    question: str
    command: str = ""
    rows: list[PlannedRow] = []
    reference: str | None = None
    has_search: bool = False
    spec_file: str = ""
    components: list[str] = []
    provenance: dict[str, str] = {}
    first_seeds: int | None = None  # adaptive seeds: how many decided how many followed
    seeds_rule: str = ""  # how many seeds a row was given, where that was not fixed beforehand
    title: str | None = None
    notes: str | None = None
    figures: list[FigureRequest] = []
    published: list[PublishedTable] = []
    paired_tests: list[PairedTest] = []
    claims: list[Claim] = []


class SearchTrial(_Record):
    """One trial of a search."""

    number: int
    params: dict[str, Any]
    values: list[float] | None  # of the objectives; for a pruned trial its last one
    state: str  # finished, pruned, failed
    epochs: int
    cell: str
    seconds: float


class ConfirmedTrial(_Record):
    """A winner of a search, re-trained without taking validation out and evaluated once on the test set."""

    number: int
    params: dict[str, Any]
    values: list[float]
    cells: list[PlannedCell]


class SearchRecord(_Record):
    """``search.json``: a search's history, as Optuna tells it."""

    metrics: list[str]
    directions: list[str]
    sampler: str
    early_stopping: str
    space: dict[str, Any]
    trials: list[SearchTrial]
    importances: dict[str, dict[str, float]]  # by metric, by parameter
    best: list[int]  # trial numbers, best first; the Pareto front for several metrics
    confirmed: list[ConfirmedTrial] = []
    stopped_by: str = ""
