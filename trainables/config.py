"""The configuration of one trial: frozen, typed, checked, and free of torch.

It holds what decides a trial's numbers and nothing else: workers, devices and paths live in the sweep's ``resources``
and on the command line. Every key of the YAML ``base`` is a key here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from trainables.augmentation.options import AugmentationConfig
from trainables.catalogue import OneOf
from trainables.data import LARGE, SOURCES
from trainables.methods import DEFAULT_METHOD, METHODS, options_class
from trainables.methods.ncl_pp.options import NCLppOptions
from trainables.methods.options import MethodOptions
from trainables.models import BACKBONES
from trainables.sampling import RULES
from trainables.section import Section


class ImbalanceConfig(Section):
    """The long-tailed subset of a balanced set."""

    profile: Literal["exponential", "step", "natural"] = Field(
        "exponential",
        description="exponential: n_i = int(n_max · IF^(-i/(C-1))); step: half the classes; natural: as it is",
    )
    factor: float = Field(
        100.0, ge=1, description="imbalance factor IF: largest over smallest class; unused for natural"
    )
    subset_seed: int = Field(0, ge=0, lt=2**32, description="which images are kept: seed of NumPy's legacy RandomState")


class Resize(NamedTuple):
    """What images become when they are read: squares of ``size`` pixels, by an interpolation, squashed or cut out.

    ``draft``: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where that still has the pixels.
    """

    size: int
    interpolation: str = "bilinear"
    aspect: str = "squash"
    draft: bool = False

    @property
    def name(self) -> str:
        """For a folder: ``256``, ``256-box-keep``, ``256-draft``."""
        neutral, named = Resize(self.size), (self.interpolation, self.aspect, "draft")
        return "-".join(
            [
                str(self.size),
                *(name for name, mine, its in zip(named, self[1:], neutral[1:], strict=True) if mine != its),
            ]
        )


class DataConfig(Section):
    """Which images are trained on, and which are looked at."""

    name: Annotated[str, OneOf(SOURCES)] = Field("cifar10", description="the data set")
    path: str | None = Field(None, description="for parquet and folder: the folder below the data root")
    image_size: int | None = Field(None, ge=4, le=1024, description="pixels; images are resized to it; none: as stored")
    store_size: int | None = Field(
        None, ge=4, le=1024, description="images are resized to this instead, and cropped to image_size; none: no crop"
    )
    interpolation: Literal["box", "bilinear", "bicubic"] = Field(
        "bilinear",
        description="how images are resized (by Pillow, with antialiasing); box: the mean of the pixels in its place",
    )
    aspect: Literal["squash", "keep", "whole"] = Field(
        "squash",
        description="how images that are not square are resized; squash: both sides; keep: the shorter side, and the centre of "
        "the longer one is kept, so that evaluation sees what Resize(store_size) and CenterCrop(image_size) show; whole: as "
        "keep for evaluation, and training cuts out of the whole picture by `augmentation.crop: random_resized_crop`",
    )
    draft: bool = Field(
        False,
        description="JPEGs larger than twice the size that they are resized to are decoded at 1/2, 1/4 or 1/8 of theirs: "
        "faster, and not the same pixels",
    )
    on_disk: bool = Field(
        False,
        description="parquet and folder: images stay on disk, for sets larger than memory, and are known by name and size",
    )
    unreadable: Literal["stop", "skip"] = Field(
        "stop",
        description="of images that stay on disk, one for training that cannot be decoded stops the trial, or is skipped: the "
        "next image of its class stands in for it; one for evaluation always stops it",
    )
    imbalance: ImbalanceConfig = ImbalanceConfig()
    classes: tuple[str, ...] = Field(
        (), description="names of the classes that are used, in their order in the data set; none: all"
    )
    shot_group: Literal["many", "medium", "few"] | None = Field(
        None, description="only classes with > 100, 20..100 or < 20 training images, numbered anew; none: all"
    )
    data_ratio: float = Field(1.0, gt=0, le=1, description="fraction of every class that is kept, Table 9")
    val_per_class: int = Field(0, ge=0, description="validation images a class, taken out before the subset is drawn")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name in ("parquet", "folder") and not self.path:
            raise ValueError(f"data.path is missing: `name: {self.name}` needs the folder below the data root")
        if self.name not in ("parquet", "folder") and self.path is not None:
            raise ValueError(
                f"data.path = {self.path!r} goes with `name: parquet` or `name: folder`, not {self.name!r}"
            )
        if self.store_size is not None and (self.image_size is None or self.store_size < self.image_size):
            raise ValueError(
                f"data.store_size = {self.store_size} must be >= data.image_size = {self.image_size}, which is cut out of it"
            )
        if self.on_disk and self.name not in ("parquet", "folder"):
            raise ValueError(
                f"data.on_disk goes with `name: parquet` or `name: folder`; {self.name!r} "
                + ("stays on disk anyway: leave it out" if self.name in LARGE else "fits into memory: leave it out")
            )
        for key, value in (("unreadable", "skip"), ("aspect", "whole")):
            if getattr(self, key) == value and not self.stays_on_disk:
                raise ValueError(
                    f"data.{key} = {value!r} needs images that stay on disk: with `name: parquet` or `name: folder` set "
                    "`on_disk: true`, or leave it out"
                )
        if self.draft and self.whole:
            raise ValueError(
                "data.draft = True leaves pixels out that the windows of data.aspect = 'whole' are cut from: leave one out"
            )
        for key, neutral in (("interpolation", "bilinear"), ("aspect", "squash"), ("draft", False)):
            if getattr(self, key) != neutral and self.image_size is None:
                raise ValueError(
                    f"data.{key} = {getattr(self, key)!r} says how images are resized: set data.image_size, or leave it out"
                )
        return self

    @property
    def resize(self) -> Resize | None:
        """How images are kept; None: as they come."""
        size = self.store_size or self.image_size
        return Resize(size, self.interpolation, "keep" if self.whole else self.aspect, self.draft) if size else None

    @property
    def stays_on_disk(self) -> bool:
        """Are images read when they are needed?"""
        return self.on_disk or self.name in LARGE

    @property
    def whole(self) -> bool:
        """Are windows cut out of whole pictures?"""
        return self.aspect == "whole"


class ModelConfig(Section):
    """A trunk that K branches share, each with a head; nothing is shared by default: K networks of one shape."""

    backbone: Annotated[str, OneOf(BACKBONES)] = Field("resnet32", description="resnet8..56 are the CIFAR family")
    stem: Literal["imagenet", "cifar"] | None = Field(
        None, description="imagenet: 7×7 stride 2 + pooling; cifar: 3×3; none: imagenet, and cifar for the CIFAR family"
    )
    classifier: Literal["linear", "cosine"] = Field("linear", description="cosine: scale · cos(w_j, f)")
    cosine_scale: float = Field(16.0, gt=0, description="scale of the cosine classifier")
    experts: int = Field(1, ge=1, le=64, description="K, experts that are trained together")
    shared: Literal["none", "stem", "stage1", "stage2", "stage3", "all_but_last_block", "backbone"] = Field(
        "none", description="up to where the experts share one backbone: stage1 in RIDE, all_but_last_block in BBN"
    )
    branch_width: float = Field(
        1.0, gt=0, le=4, description="channels of the second and third stage of the CIFAR family; 0.75 in RIDE"
    )
    pretrained: bool | Annotated[str, Field(pattern=r"^[\w.-]+$")] = Field(
        False,
        description="start from torchvision's ImageNet weights, downloaded if missing, or from those of a file in "
        "$TORCH_HOME/hub/checkpoints, by its name",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        entry = BACKBONES[self.backbone]
        if entry.cifar and self.stem == "imagenet":
            others = ", ".join(name for name, other in BACKBONES.items() if not other.cifar)
            raise ValueError(
                f"model.stem = 'imagenet' does not exist for {self.backbone!r}, whose stem is a 3×3 convolution; "
                f"leave model.stem out or choose one of {others}"
            )
        if isinstance(self.pretrained, str) and (entry.cifar or self.stem == "cifar"):
            having = ", ".join(name for name, other in BACKBONES.items() if not other.cifar)
            raise ValueError(
                f"model.pretrained = {self.pretrained!r}: weights are read for {having} with `stem: imagenet`, not for "
                f"{self.backbone!r} with the stem {self.stem or 'cifar'!r}"
            )
        if self.pretrained is True and (entry.weights is None or self.stem == "cifar"):
            having = ", ".join(name for name, other in BACKBONES.items() if other.weights)
            raise ValueError(
                f"model.pretrained: there are no ImageNet weights for {self.backbone!r} with the stem "
                f"{self.stem or 'cifar'!r}; choose one of {having} with `stem: imagenet`"
            )
        if self.branch_width != 1 and not entry.cifar:
            raise ValueError(
                f"model.branch_width = {self.branch_width}: only the CIFAR family has it, not {self.backbone!r}; leave it out"
            )
        return self


class SamplingConfig(Section):
    """Which images an epoch trains on, and how often."""

    name: Annotated[str, OneOf(RULES)] = Field(
        "instance", description="power: class j is drawn with probability ∝ n_j^q; see docs/methods/sampling.md"
    )
    q: float = Field(0.5, ge=-4, le=4, description="the exponent of `power`")
    from_epoch: float = Field(
        0.0, ge=0, lt=1, description="deferred: instance sampling before this fraction of the epochs (0.8 in DRS)"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name != "power" and self.q != 0.5:
            raise ValueError(f"sampling.q = {self.q} goes with `name: power`, not {self.name!r}; leave it out")
        if self.name == "instance" and self.from_epoch:
            raise ValueError("sampling.from_epoch defers another sampling than `instance`; name one, or leave it out")
        return self


class OptimizerConfig(Section):
    """SGD."""

    lr: float = Field(0.1, gt=0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(2e-4, ge=0, description="on every parameter but learnable loss weights")
    clip_norm: float | None = Field(None, gt=0, description="gradient clipping by global norm; none: off")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.nesterov needs momentum > 0; set `nesterov: false` for plain SGD")
        return self


class ScheduleConfig(Section):
    """The learning rate of every epoch."""

    name: Literal["multistep", "cosine", "constant"] = "multistep"
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="epochs after which lr is multiplied by gamma"
    )
    gamma: float = Field(0.1, gt=0, le=1)
    min_lr: float = Field(0.0, ge=0, description="where cosine ends")
    warmup_epochs: int = Field(0, ge=0)
    warmup_start: float = Field(0.0, ge=0, le=1, description="warm-up goes linearly from this fraction of lr to lr")


class TrainingConfig(Section):
    """The loop."""

    epochs: int = Field(200, ge=1)
    batch_size: int = Field(128, ge=1, description="images (not copies) in one forward pass, over all workers")
    accumulate: int = Field(1, ge=1, description="forward passes in one optimiser step")
    precision: Literal["fp32", "tf32", "bf16", "fp64"] = Field(
        "fp32",
        description="tf32: fp32 whose products GPUs round to 10 bits (CPUs do not); bf16: autocast; fp64 exists for tests",
    )
    batch_norm_groups: int = Field(
        1,
        ge=1,
        description="BatchNorm statistics of so many parts of a batch; 1: of all of it, over all workers; W: what "
        "unsynchronised BatchNorm computes with W workers. The same however many workers there are",
    )
    deterministic: bool = Field(False, description="deterministic kernels on GPUs too, at a price in speed")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.batch_size % self.batch_norm_groups:
            raise ValueError(
                f"training.batch_norm_groups = {self.batch_norm_groups} must divide training.batch_size = {self.batch_size}"
            )
        return self


class EvaluationConfig(Section):
    """When it is looked at. Never part of a cell's identity."""

    every: int | None = Field(None, ge=1, description="evaluate every so many epochs; none: after the last one only")


class SyntheticConfig(Section):
    """Instead of training: a learning curve in closed form, and faults on request (``trainables.synthetic``)."""

    epoch_seconds: float = Field(0.0, ge=0, description="how long an epoch takes")
    fault: Literal["none", "raise", "exit", "hang", "diverge", "out_of_memory"] = Field(
        "none",
        description="raise: an exception; exit: the process dies without a word; hang: an epoch that does not end",
    )
    fault_epoch: int = Field(1, ge=1, description="in which epoch")
    fault_times: int = Field(1, ge=1, description="how often, for raise, exit and hang; then it goes well")


class CustomConfig(Section):
    """Instead of the methods here: a function of your own that yields the metrics of its epochs (``trainables.custom``)."""

    function: str = Field(pattern=r"^[\w.]+:[\w.]+$", description="`module:function`")
    version: int = Field(1, ge=1, description="raise it when its numbers change: it is part of a cell's id")
    parameters: dict[str, bool | int | float | str | None] = Field(
        {}, description="what it is given, and what is searched"
    )


class Loop(NamedTuple):
    """The epoch loop that a trial itself runs: the trial's own sections, unless its method has a later stage of its own."""

    epochs: int
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    sampling: SamplingConfig
    trains: bool = True  # false: one epoch without a gradient step, in which the method fits something in closed form


class TrialConfig(Section):
    """Everything that decides the numbers of one trial."""

    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    model: ModelConfig = ModelConfig()
    method: SerializeAsAny[MethodOptions] = NCLppOptions()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seed: int = Field(0, ge=0, lt=2**31)
    synthetic: SyntheticConfig | None = Field(None, description="for testing a search or a cluster without training")
    custom: CustomConfig | None = Field(None, description="a trainable of your own")

    @model_validator(mode="before")
    @classmethod
    def _no_images(cls, value: Any) -> Any:
        """A trainable of the user's own reads what it needs itself: the embedded digits stand where the images would."""
        if isinstance(value, dict) and value.get("custom") and isinstance(data := value.get("data", {}), dict):
            return {**value, "data": {"name": "digits", **data}}
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _method(cls, value: Any) -> Any:
        if isinstance(value, MethodOptions):
            return value
        if not isinstance(value, dict):
            raise ValueError("must be a mapping with a `name`; known methods: " + ", ".join(METHODS))
        name = value.get("name", DEFAULT_METHOD)
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(f"unknown method {name!r}; known methods: " + ", ".join(METHODS))
        return options_class(name).model_validate(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        epochs, schedule = self.training.epochs, self.schedule
        late = [m for m in schedule.milestones if m >= epochs]
        if late:
            raise ValueError(
                f"schedule.milestones {late} do not lie inside the {epochs} epochs of training.epochs; "
                "every milestone must be < epochs"
            )
        if list(schedule.milestones) != sorted(set(schedule.milestones)):
            raise ValueError(f"schedule.milestones {list(schedule.milestones)} must rise")
        if schedule.milestones and schedule.name != "multistep":
            raise ValueError(f"schedule.milestones go with `name: multistep`, not {schedule.name!r}; leave them out")
        if schedule.warmup_epochs >= epochs and schedule.warmup_epochs > 0:
            raise ValueError(f"schedule.warmup_epochs = {schedule.warmup_epochs} must be < training.epochs = {epochs}")
        if schedule.min_lr > self.optimizer.lr:
            raise ValueError(f"schedule.min_lr = {schedule.min_lr} must be <= optimizer.lr = {self.optimizer.lr}")
        if self.custom is not None and self.synthetic is not None:
            raise ValueError("custom and synthetic exclude each other; leave one out")
        a = self.augmentation
        if self.data.whole and (a.crop != "random_resized_crop" or "none" in a.policies):
            raise ValueError(
                "data.aspect = whole trains on windows of whole pictures: set augmentation.crop to random_resized_crop and no "
                "policy to none, or data.aspect to keep"
            )
        self.method.check(self)
        self.method.requires(self)  # what comes first must be a valid trial too
        return self

    @property
    def loop(self) -> Loop:
        """What this trial itself runs, after what it requires."""
        return self.method.loop(self)
