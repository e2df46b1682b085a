"""Methods whose loss is a mean over samples, of each expert by itself, perhaps with weights by class.

Legend: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import weights
from trainables.methods.base import Batch, Method
from trainables.methods.options import MethodOptions
from trainables.methods.reweighting import ReweightingOptions

Options = TypeVar("Options", bound=MethodOptions)


class SingleLoss(Method[Options]):
    """Uncoupled experts: the mean of ``sample_losses`` over copies and images, summed over experts.

    Where images are mixed, a sample's loss is that of its two labels, weighted by their shares. Options that are
    ``ReweightingOptions`` weight samples by class.
    """

    weights: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep the class weights ``[C]``."""
        super().__init__(config, class_counts)
        made = self.class_weights(class_counts.double())
        self.register_buffer("weights", made.to(self.dtype), persistent=False)

    def class_weights(self, n: Tensor) -> Tensor:
        """Weights of every class once they are on: ``[C]`` of float64 counts ``[C]``."""
        options = self.options
        if not isinstance(options, ReweightingOptions) or options.reweight == "none":
            return torch.ones_like(n)
        if options.reweight == "effective":
            return weights.effective_number(n, options.reweight_beta)
        return weights.inverse_frequency(n, options.reweight_power)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]`` of logits ``[K, T, B, C]`` and labels ``[B]``."""
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        return {"loss": self.mean_loss(batch, lambda labels: self.sample_losses(batch.logits, labels, batch))}

    def weighted(self, epoch: int) -> bool:
        """Are class weights on in this epoch (from 0)?"""
        options = self.options
        if not isinstance(options, ReweightingOptions) or options.reweight == "none":
            return False
        return epoch >= int(options.reweight_from * self.epochs)

    def mean_loss(self, batch: Batch, sample_losses: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over copies and images, sum over experts, of ``sample_losses(labels)`` ``[K, T, B]``."""
        if not self.weighted(batch.epoch):
            return of_both_labels(batch, sample_losses).mean((1, 2)).sum()
        total = of_both_labels(batch, lambda labels: self.weights[labels] * sample_losses(labels)).mean((1, 2)).sum()
        assert isinstance(self.options, ReweightingOptions)
        return total if self.options.reweight_mean == "batch" else total / self.mean_weight(batch)

    def mean_weight(self, batch: Batch) -> Tensor:
        """The mean weight of a batch over all workers."""
        own = of_both_labels(batch, lambda labels: self.weights[labels])
        both = self.parallel.total(torch.stack([own.sum(), own.new_full((), len(own))]))
        return both[0] / both[1]


def of_both_labels(batch: Batch, values: Callable[[Tensor], Tensor]) -> Tensor:
    """``values(labels)`` ``[..., B]``; where images are mixed, the mean over both labels by their shares."""
    own = values(batch.labels)
    if batch.partner_labels is None or batch.coefficient is None:
        return own
    share = batch.coefficient.to(own.dtype)
    return share * own + (1 - share) * values(batch.partner_labels)
