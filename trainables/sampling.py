"""Which images an epoch trains on: the re-sampling rules of long-tailed recognition.

Legend: ``C`` classes, ``n_j`` training images of class j, ``N`` their sum, ``e`` the epoch from 0 of ``E``. ``RULES`` is the
catalogue; it is torch-free, since configurations are checked against it. Draws are counter-based: the same for every number of
workers, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from trainables.config import SamplingConfig

Values = NDArray[np.float64]


class Rule(NamedTuple):
    """How an epoch is drawn.

    ``once``: every image once. ``replacement``: N draws, class j with the given probability, any of its images alike.
    ``quota``: as many images of class j as given, each image as often as any other of its class, give or take one.
    """

    how: Literal["once", "replacement", "quota"]
    weights: Callable[[Values, float, float], Values]  # of (n [C], q, progress in 0..1) -> [C]


def power(n: Values, q: float) -> Values:
    """``p_j = n_j^q / Σ n^q`` (Kang et al., ICLR 2020, eq. 1): q = 1 instance, ½ square-root, 0 class-balanced, -1 reversed."""
    weights = (n / n.max()) ** q
    return np.asarray(weights / weights.sum())


def progressive(n: Values, progress: float) -> Values:
    """``(1 - t)·p_instance + t·p_class`` (Kang et al., eq. 2), t = e/(E - 1) from 0 in the first epoch to 1 in the last."""
    return (1 - progress) * power(n, 1.0) + progress * power(n, 0.0)


RULES: dict[str, Rule] = {
    "instance": Rule("once", lambda n, q, t: n),
    "square_root": Rule("replacement", lambda n, q, t: power(n, 0.5)),
    "class_balanced": Rule("replacement", lambda n, q, t: power(n, 0.0)),
    "power": Rule("replacement", lambda n, q, t: power(n, q)),
    "progressive": Rule("replacement", lambda n, q, t: progressive(n, t)),
    "reversed": Rule("replacement", lambda n, q, t: power(n, -1.0)),  # BBN (Zhou et al., CVPR 2020, section 4.2)
    "oversample": Rule("quota", lambda n, q, t: np.full_like(n, n.max())),
    "undersample": Rule("quota", lambda n, q, t: np.full_like(n, n.min())),
}


class Drawn(NamedTuple):
    """Images of an epoch in order, int64 ``[M]`` each: its number, and how often it has come before in this epoch."""

    image: Tensor
    occurrence: Tensor


def size(config: SamplingConfig, counts: NDArray[np.int64]) -> int:
    """How many images an epoch holds once the rule is in force."""
    rule = RULES[config.name]
    return int(rule.weights(counts.astype(float), config.q, 0.0).sum()) if rule.how == "quota" else int(counts.sum())


def check(config: SamplingConfig, counts: NDArray[np.int64], class_names: tuple[str, ...], batch_size: int) -> None:
    """Every class must be seen and a batch filled; raises ``DataError`` naming the class and the way out."""
    rule = RULES[config.name]
    if rule.how == "once":
        return
    for progress in (0.0, 1.0):
        expected = rule.weights(counts.astype(float), config.q, progress)
        expected = expected * counts.sum() if rule.how == "replacement" else expected
        least = int(expected.argmin())
        if expected[least] < 1 - 1e-9:
            raise DataError(
                f"sampling.name = {config.name!r}{f', q = {config.q:g}' if config.name == 'power' else ''} leaves class "
                f"{class_names[least]!r} ({counts[least]} images) without images: "
                f"{expected[least]:.2g} are expected in an epoch of {int(counts.sum())}; use q nearer to 0, or another sampling"
            )
    if (images := size(config, counts)) < batch_size and config.name == "undersample":
        raise DataError(
            f"sampling.name = 'undersample' leaves {images} images an epoch ({counts.min()} of each of {len(counts)} classes), "
            f"fewer than training.batch_size = {batch_size}; use a smaller batch, or another sampling"
        )


def draw(config: SamplingConfig, labels: Tensor, seed: int, epoch: int, epochs: int, stream: int = 0) -> Drawn:
    """The images of an epoch, on the CPU.

    Args:
        config: the sampling.
        labels: int64 ``[N]`` of the training set.
        seed: of the trial.
        epoch: from 0.
        epochs: of the whole loop.
        stream: 0 for the trial's own sampling; further ones of a method (BBN) have draws of their own.
    """
    import torch

    from trainables import draws

    n = len(labels)
    deferred = epoch < int(config.from_epoch * epochs)
    rule = RULES["instance" if deferred else config.name]
    if rule.how == "once":
        key = (seed, draws.STREAMS["order"], epoch, *((stream,) if stream else ()))
        image = draws.permutation(*key, n=n)
        return Drawn(image, torch.zeros_like(image))
    counts = torch.bincount(labels)
    weights = torch.from_numpy(rule.weights(counts.double().numpy(), config.q, epoch / max(epochs - 1, 1)))
    by_class = torch.argsort(labels, stable=True)  # images of class 0, then of class 1, ...
    first = counts.cumsum(0) - counts
    if rule.how == "replacement":
        two = draws.uniforms((seed, draws.STREAMS["sample"], epoch, stream, torch.arange(n)), 2).double()
        cumulative = weights.cumsum(0)
        cumulative[-1] = 1.0
        label = torch.searchsorted(cumulative, two[:, 0].contiguous(), right=True)
        within = (two[:, 1] * counts[label]).long().clamp_(max=counts[label] - 1)
        image = by_class[first[label] + within]
    else:
        # Which images are left out, or come once more, is drawn once for the whole training.
        rank = draws.permutation(seed, draws.STREAMS["sample"], stream, n=n).argsort()
        shuffled = by_class[torch.argsort(rank[by_class] + labels[by_class] * n)]
        label = torch.repeat_interleave(torch.arange(len(counts)), weights.long())
        position = torch.arange(len(label)) - (weights.long().cumsum(0) - weights.long())[label]
        image = shuffled[first[label] + position % counts[label]]
        image = image[draws.permutation(seed, draws.STREAMS["order"], epoch, stream, n=len(image))]
    return Drawn(image, occurrences(image))


def occurrences(image: Tensor) -> Tensor:
    """How often each entry of int64 ``[M]`` has come before: 0 for the first, 1 for the second, ..."""
    import torch

    order = torch.argsort(image, stable=True)
    ordered = image[order]
    position = torch.arange(len(image))
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    begin = torch.where(starts, position, torch.zeros_like(position)).cummax(0).values
    out = torch.empty_like(image)
    out[order] = position - begin
    return out
