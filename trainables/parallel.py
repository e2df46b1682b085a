"""Data parallelism inside one trial: which images a worker has, and what workers add up.

Legend: ``W`` workers, ``B`` images of a batch over all of them. A worker's ``b`` images are a contiguous part of the batch, so
that everything that is keyed by an image's number is the same for every ``W``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Parallel:
    """This process among the workers of its trial; the default process group is theirs. Alone, nothing is communicated."""

    rank: int = 0
    workers: int = 1
    nodes: tuple[int, ...] = ()  # the node of every rank, numbered from 0; empty: all on one

    @property
    def is_rank_zero(self) -> bool:
        """Rank 0 writes checkpoints and final files, and only its reports have everything."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This worker's part of ``[B, ...]``; parts differ by one image at most."""
        return batch.tensor_split(self.workers)[self.rank] if self.workers > 1 else batch

    def share(self, batch: Tensor) -> float:
        """What a mean over this worker's part is multiplied with so that the mean over workers is the mean over ``B``."""
        return len(self.shard(batch)) * self.workers / len(batch) if self.workers > 1 else 1.0

    def largest(self, value: float) -> float:
        """The largest of the workers' values, on all of them."""
        if self.workers == 1:
            return value
        found = torch.tensor([value], dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        return float(found)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over workers, on all of them."""
        if self.workers > 1:
            dist.all_reduce(values)
            values = values / self.workers
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum over workers, on all of them, without gradient."""
        values = values.detach().clone()
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def gather(self, part: Any) -> list[Any]:
        """Everyone's part by rank, on rank 0; an empty list elsewhere."""
        if self.workers == 1:
            return [part]
        parts: list[Any] | None = [None] * self.workers if self.is_rank_zero else None
        dist.gather_object(part, parts, dst=0)
        return parts or []

    def broadcast(self, value: Any) -> Any:
        """What rank 0 has, on all."""
        if self.workers == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def first(self, own: Tensor, dim: int = 0) -> int:
        """Where this worker's rows begin among everyone's."""
        return sum(self._sizes(own, dim)[: self.rank])

    def _sizes(self, own: Tensor, dim: int) -> list[int]:
        if self.workers == 1:
            return [own.shape[dim]]
        counts = torch.zeros(self.workers, dtype=torch.int64, device=own.device)
        counts[self.rank] = own.shape[dim]
        dist.all_reduce(counts)
        return [int(count) for count in counts.tolist()]

    def rows(self, own: Tensor, dim: int = 0) -> Tensor:
        """Everyone's rows along ``dim``, by rank, with gradients back to each: ``b`` of this worker become ``B``."""
        if self.workers == 1:
            return own
        shape = list(own.shape)
        parts = []
        for rank, size in enumerate(self._sizes(own, dim)):
            shape[dim] = size
            parts.append(own if rank == self.rank else own.new_zeros(shape))
        gathered: Tensor = _Sum.apply(torch.cat(parts, dim), None)
        return gathered


class _Sum(torch.autograd.Function):
    """The sum over workers; every worker's loss depends on this worker's values through it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, during: Any) -> Tensor:
        ctx.during = during or nullcontext
        total = values.clone()
        with ctx.during():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        with ctx.during():
            dist.all_reduce(total)
        return total, None


def sum_over_workers(values: Tensor, during: Callable[[], AbstractContextManager[None]] | None = None) -> Tensor:
    """The sum over workers, with gradients back to each of them; ``during`` is entered while it is under way."""
    summed: Tensor = _Sum.apply(values, during)
    return summed
