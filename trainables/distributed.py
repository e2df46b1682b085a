"""What several workers of a trial need around the model: synchronised BatchNorm, averaged gradients, and what that costs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from trainables.models import batch_norm
from trainables.parallel import Parallel


class Backend:
    """One trial's workers on their devices; for a worker alone it does nothing."""

    def __init__(self, parallel: Parallel, device: torch.device) -> None:
        """Of this process."""
        self.parallel, self.device = parallel, device
        self.traffic = Traffic(device)

    def convert(self, module: nn.Module, groups: int, copies: int) -> None:
        """BatchNorm over all workers, or over ``groups`` of a batch."""
        batch_norm.convert(module, self.parallel, groups, copies, self.device, self.traffic.under_way)

    def wrap(self, step: nn.Module) -> nn.Module:
        """With several workers, gradients are averaged over them."""
        if self.parallel.workers == 1:
            return step
        devices = [self.device] if self.device.type == "cuda" else None
        wrapped = DistributedDataParallel(step, device_ids=devices, broadcast_buffers=False)
        # The state is the traffic alone: DDP's C++ part keeps it and the hook, where the garbage collector does not look, and
        # with this object in one of them no trial of a worker that goes on would ever be freed.
        wrapped.register_comm_hook(self.traffic, lambda traffic, bucket: traffic.all_reduce(bucket))
        return wrapped

    @staticmethod
    def no_sync(step: nn.Module) -> AbstractContextManager[None]:
        """While gradients are only added up."""
        return step.no_sync() if isinstance(step, DistributedDataParallel) else nullcontext()

    def throughput(self, images: int, seconds: float) -> dict[str, float]:
        """Metrics of an epoch in which this worker trained on ``images``; nothing for a worker alone.

        ``parallel/allreduce_share``: the share of the time in which gradients (which may overlap with the backward pass) or, on
        CPUs, sums of BatchNorm were under way between workers, mean over workers. ``parallel/node<i>_images_per_second``:
        images that the workers of a node train per second of the rest, so that a slow node shows: the others wait for it.
        """
        if self.parallel.workers == 1:
            return {}
        mine = torch.zeros(self.parallel.workers, 3, dtype=torch.float64)
        mine[self.parallel.rank] = torch.tensor([images, seconds, self.traffic.take()], dtype=torch.float64)
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        dist.all_reduce(everyone := mine.to(device))
        images_of, seconds_of, under_way_of = everyone.cpu().unbind(1)
        rates = images_of / (seconds_of - under_way_of).clamp_min(1e-9)
        found = {"parallel/allreduce_share": float((under_way_of / seconds_of).mean())}
        for rank, node in enumerate(self.parallel.nodes or (0,) * self.parallel.workers):
            name = f"parallel/node{node}_images_per_second"
            found[name] = found.get(name, 0.0) + float(rates[rank])
        return found


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

    def all_reduce(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """The mean of a bucket of gradients over workers: a communication hook of DDP."""
        begun = self._begin()

        def end(reduced: torch.futures.Future[Tensor]) -> Tensor:
            self._end(begun)
            return reduced.value()

        under_way: torch.futures.Future[Tensor] = allreduce_hook(
            cast(dist.ProcessGroup, dist.group.WORLD), bucket
        ).then(end)
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
