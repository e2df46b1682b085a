"""What the epoch loop asks of a method.

Legend: ``K`` experts, ``T`` augmented copies, ``B`` images, ``C`` classes, ``D`` features, ``K'``, ``C'`` of a teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from trainables.config import TrialConfig
from trainables.methods.options import MethodOptions
from trainables.metrics import hits
from trainables.models.network import Network, Outputs
from trainables.parallel import Parallel
from trainables.precision import autocast

if TYPE_CHECKING:
    from trainables.trained import Trained

Options = TypeVar("Options", bound=MethodOptions)


@dataclass(frozen=True)
class Batch:
    """What a method sees of one forward pass: this worker's images of a batch.

    With further samplings (``MethodOptions.streams``) the images of each follow one another: ``streams`` parts of one size.
    """

    inputs: Tensor  # float [T·B, 3, H, W], copy by copy
    labels: Tensor  # int64 [B]
    image: Tensor  # int64 [B], the image's number in the training set: the key of counter-based draws
    occurrence: Tensor  # int64 [B], how often the image has come before in this epoch
    epoch: int  # from 0
    seed: int
    logits: Tensor  # float [K, T, B, C]; empty before the forward pass
    features: Tensor  # float [K, T, B, D]; empty before the forward pass
    partner_labels: Tensor | None = None  # int64 [B], where images are mixed
    coefficient: Tensor | None = None  # float [B], where images are mixed: the weight of `labels`
    teacher_logits: tuple[Tensor, ...] | None = None  # float [K', T, B, C'] of every teacher, on the same copies


class Prediction(NamedTuple):
    """What is evaluated."""

    logits: Tensor  # [K', N, C]: "single" is one of the K', "ensemble" their mean
    per_image: dict[str, Tensor] = {}  # [N] by name; their means are reported


class Images(NamedTuple):
    """Some images as the network takes them, with their labels."""

    inputs: Tensor  # [N, 3, H, W]
    labels: Tensor  # int64 [N]


class Method(nn.Module, Generic[Options]):
    """A training method; most only turn logits into a loss (``losses``), the other hooks are for those that do more.

    Parameters and buffers of a method are trained, kept and resumed with the network; parameters have no weight decay unless
    ``parameter_groups`` says so.

    Args:
        config: the trial.
        class_counts: int64 ``[C]``, images of every class that are actually trained on, all at least 1.
    """

    log_n: Tensor
    class_counts: Tensor
    counted: ClassVar[tuple[str, ...]] = ()  # buffers that every worker adds up for itself within an epoch

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep ``n`` and ``log n`` as buffers."""
        super().__init__()
        self.config = config
        self.options = cast(Options, config.method)
        self.epochs = config.loop.epochs
        self.dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
        self.parallel = Parallel()
        self.teachers: list[Trained] = []  # required trials of the role `teacher`
        self.register_buffer("class_counts", class_counts, persistent=False)
        self.register_buffer("log_n", class_counts.double().log().to(self.dtype), persistent=False)

    # -- before the first epoch ----------------------------------------------------------------------------------------

    def prepare(self, network: Network) -> None:
        """Shape the network (heads, frozen parts) and make what the method itself holds.

        Called with the weights of what it starts from, if it does, and whenever the trial's weights are loaded: what is built
        must not depend on them. Random numbers of torch derive from the trial's seed.
        """

    def adopt(self, selection: Trained) -> None:
        """Take over what a required trial of the role ``selection`` has selected."""

    def survey(self, network: Network, training: Callable[[], Iterator[Images]]) -> None:
        """Look once at the training images without augmentation, in order, before the first step; also after a resume.

        The network has the weights that it starts with, and ``teachers`` are there.
        """

    def parameter_groups(self, network: Network) -> list[dict[str, Any]]:
        """Groups for the optimiser: ``params`` with ``weight_decay`` and ``lr_factor``; frozen parameters are left out."""
        decay = self.config.loop.optimizer.weight_decay
        return [
            {"params": list(network.parameters()), "weight_decay": decay},
            {"params": list(self.parameters()), "weight_decay": 0.0},
        ]

    # -- training ------------------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        """Before the first step of an epoch (from 0)."""

    def pixels(self, images: Tensor, labels: Tensor, draws: tuple[int | Tensor, ...]) -> Tensor:
        """Change uint8 images ``[b, 3, H, W]`` before they are augmented; ``draws`` is the key of their draws."""
        return images

    def forward(self, network: Network, inputs: Tensor) -> Outputs:
        """The network in the trial's precision; logits and features come back in the type of the inputs."""
        with autocast(self.config, inputs.device):
            logits, features = network(inputs)
        # Losses are taken in full precision.
        return Outputs(logits.to(inputs.dtype), features.to(inputs.dtype))

    def step(self, network: Network, batch: Batch) -> dict[str, Tensor]:
        """One forward pass: scalars by name. ``loss`` is minimised, the others (``top1``, components) are for the record."""
        outputs = self.forward(network, batch.inputs)
        batch = with_outputs(batch, outputs)
        return {**self.losses(batch), "top1": accuracy(batch.logits, batch.labels)}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name; ``loss`` is what is minimised, the others are its components, for the record."""
        raise NotImplementedError

    def after_step(self, network: Network) -> None:
        """After every step of the optimiser: a momentum encoder, a queue, a projection of weights."""

    def end_epoch(self, epoch: int) -> None:
        """After the last step of an epoch; what workers have counted is put together here."""

    def fit(
        self, network: Network, training: Iterator[Images], validation: Iterator[Images] | None
    ) -> dict[str, float]:
        """Instead of training, where ``loop.trains`` is false: training images without augmentation, once; metrics.

        ``validation`` are the images of the trial's validation split, where it has one. Every worker sees all images.
        """
        raise NotImplementedError

    def state_metrics(self) -> dict[str, float]:
        """Scalars of the method's own state at the end of an epoch, such as learned weights."""
        return {}

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def predict(self, outputs: Outputs) -> Prediction:
        """What the method predicts from logits ``[K, N, C]`` and features ``[K, N, D]``."""
        return Prediction(outputs.logits)


AnyMethod = Method[Any]


def with_outputs(batch: Batch, outputs: Outputs) -> Batch:
    """The batch with what the network made of its inputs, ``[K, T, B, …]``."""
    shape = (-1, len(batch.labels))
    return replace(batch, logits=outputs.logits.unflatten(1, shape), features=outputs.features.unflatten(1, shape))


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean top-1 of ``[..., B, C]``, a scalar without gradient."""
    return hits(logits.detach(), labels, 1).to(logits.dtype).mean()
