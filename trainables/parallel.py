"""Data parallelism inside one trial: which images a worker has, and what workers add up.

Legend: ``W`` workers, ``B`` images of a batch over all of them. A worker's ``b`` images are a contiguous part of the batch, so
that everything that is keyed by an image's number is the same for every ``W``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


@dataclass(frozen=True)
class Parallel:
    """This process among the workers of its trial; the default process group is theirs. Alone, nothing is communicated."""

    rank: int = 0
    workers: int = 1
    nodes: tuple[int, ...] = ()  # the node of every rank, numbered from 0; empty: all on one

    @property
    def leads(self) -> bool:
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

    def gather(self, part: Any) -> list[Any]:
        """Everyone's part by rank, on rank 0; an empty list elsewhere."""
        if self.workers == 1:
            return [part]
        parts: list[Any] | None = [None] * self.workers if self.leads else None
        dist.gather_object(part, parts, dst=0)
        return parts or []

    def throughput(self, images: int, seconds: float, under_way: float) -> dict[str, float]:
        """Metrics of an epoch in which this worker trained on ``images``; nothing for a worker alone.

        ``parallel/allreduce_share``: the share of the time in which gradients (which may overlap with the backward pass) or, on
        CPUs, sums of BatchNorm were under way between workers, mean over workers. ``parallel/node<i>_images_per_second``:
        images that the workers of a node train per second of the rest, so that a slow node shows: the others wait for it.
        """
        if self.workers == 1:
            return {}
        mine = torch.zeros(self.workers, 3, dtype=torch.float64)
        mine[self.rank] = torch.tensor([images, seconds, under_way], dtype=torch.float64)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        dist.all_reduce(everyone := mine.to(device))
        images_of, seconds_of, under_way_of = everyone.cpu().unbind(1)
        rates = images_of / (seconds_of - under_way_of).clamp_min(1e-9)
        found = {"parallel/allreduce_share": float((under_way_of / seconds_of).mean())}
        for rank, node in enumerate(self.nodes or (0,) * self.workers):
            name = f"parallel/node{node}_images_per_second"
            found[name] = found.get(name, 0.0) + float(rates[rank])
        return found

    def broadcast(self, value: Any) -> Any:
        """What rank 0 has, on all."""
        if self.workers == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


class Traffic:
    """What goes between workers in an epoch, timed: the seconds in which an all-reduce was under way.

    That of gradients is DDP's own; on CPUs BatchNorm's are counted too (on GPUs torch's ``SyncBatchNorm`` makes them).
    """

    def __init__(self, device: torch.device) -> None:
        """On GPUs it is timed by their events, since the host does not wait for it (never run on one)."""
        self.cuda = device.type == "cuda"
        self._lock = threading.Lock()
        self._open, self._since, self._seconds = 0, 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def all_reduce(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """The mean of a bucket of gradients over workers: a communication hook of DDP."""
        begun = self._begin()

        def end(reduced: torch.futures.Future[Tensor]) -> Tensor:
            self._end(begun)
            return reduced.value()

        under_way: torch.futures.Future[Tensor] = allreduce_hook(dist.group.WORLD, bucket).then(end)
        return under_way

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """Count what happens inside."""
        begun = self._begin()
        try:
            yield
        finally:
            self._end(begun)

    def _begin(self) -> torch.cuda.Event | None:
        if self.cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        with self._lock:
            if self._open == 0:
                self._since = time.monotonic()
            self._open += 1
        return None

    def _end(self, begun: torch.cuda.Event | None) -> None:
        if begun is not None:
            ended = torch.cuda.Event(enable_timing=True)
            ended.record()
            self._events.append((begun, ended))
            return
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._seconds += time.monotonic() - self._since

    def take(self) -> float:
        """Seconds since the last call."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000
            self._events.clear()
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, traffic: Traffic) -> Tensor:
        ctx.traffic = traffic
        total = values.clone()
        with traffic.under_way():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every worker's loss depends on this worker's values through the sum.
        total = gradients[0].clone()
        with ctx.traffic.under_way():
            dist.all_reduce(total)
        return total, None


def sum_over_workers(values: Tensor, traffic: Traffic) -> Tensor:
    """The sum over workers, with gradients back to each of them."""
    summed: Tensor = _AllReduce.apply(values, traffic)  # type: ignore[no-untyped-call]
    return summed
