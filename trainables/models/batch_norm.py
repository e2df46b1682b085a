"""BatchNorm over all workers of a trial, or over groups of a batch that do not depend on how many workers there are.

torch's own ``SyncBatchNorm`` refuses CPU tensors. Legend: ``W`` workers, ``G`` groups, ``T`` copies, ``b`` images of a worker.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from trainables.parallel import Parallel, sum_over_workers

Timer = Callable[[], AbstractContextManager[None]]


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """Statistics of each of ``G`` contiguous parts of a batch's images, with all their copies.

    ``G = 1``: of the whole batch over all workers (synchronised). ``G`` a multiple of ``W``: of parts that lie in one worker
    each, without communication in the forward pass (``G = W`` is what unsynchronised BatchNorm computes with W workers). Either
    way the same with every W. Running statistics are the mean over the groups, on all workers alike.
    """

    def __init__(
        self, like: nn.BatchNorm2d, parallel: Parallel, groups: int, copies: int, during: Timer | None = None
    ) -> None:
        """Take over the parameters of ``like``; raises ``ValueError`` if the groups cannot be laid out."""
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        if groups > 1 and groups % parallel.workers:
            raise ValueError(f"{groups} groups of BatchNorm cannot be split over {parallel.workers} workers")
        # The same objects: frozen parameters stay so, and nothing is rounded on its way.
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        # One group is the whole batch, however its rows are ordered: a method may run a part of it.
        self.parallel, self.groups, self.copies = parallel, groups, copies if groups > 1 else 1
        self.during = during  # entered while sums are under way between workers

    def forward(self, x: Tensor) -> Tensor:
        """``[T·b, C, H, W]``, copy by copy."""
        if not self.training:
            plain: Tensor = super().forward(x)
            return plain
        whole = self.groups == 1
        here = 1 if whole else self.groups // self.parallel.workers  # groups of this worker
        # [T, g, b/g, C, H, W]: a group's images with all their copies
        exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
        parts = exact.unflatten(0, (self.copies, here, -1))
        dims = (0, 2, 4, 5)
        # Sums are taken of what is left after the running mean, which is the same on all workers: squares of large means would
        # cost digits, and one exchange is enough for both sums.
        shift = exact.new_zeros(self.num_features) if self.running_mean is None else self.running_mean.to(exact).clone()
        shifted = parts - shift[:, None, None]
        count = exact.new_full((here, 1), parts.numel() / (here * self.num_features))
        sums = torch.cat([shifted.sum(dims), shifted.square().sum(dims), count], dim=1)  # [g, 2·C + 1]
        if whole and self.parallel.workers > 1:
            sums = sum_over_workers(sums, self.during)
        total, squares, n = sums.split([self.num_features, self.num_features, 1], dim=1)
        mean = total / n  # of what is left
        variance = (squares / n - mean.square()).clamp_min(0)
        self._update((mean + shift).detach(), (variance * n / (n - 1)).detach(), whole)
        scale = torch.rsqrt(variance + self.eps)[None, :, None, :, None, None]
        normal = ((shifted - mean[None, :, None, :, None, None]) * scale).flatten(0, 2)
        out: Tensor = (normal * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)
        return out

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, whole: bool) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        both = torch.stack([mean.mean(0), variance.mean(0)])
        if not whole:
            both = self.parallel.mean(both)
        self.running_mean.lerp_(both[0].to(self.running_mean), self.momentum)
        self.running_var.lerp_(both[1].to(self.running_var), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def convert(
    model: nn.Module, parallel: Parallel, groups: int, copies: int, device: torch.device, during: Timer
) -> nn.Module:
    """Replace every BatchNorm where the plain one would not do: with several workers, or with groups.

    On GPUs, synchronising over the whole batch is torch's ``SyncBatchNorm``. What was frozen stays frozen.
    """
    if parallel.workers == 1 and groups == 1:
        return model
    keeps = [name for name, module in model.named_modules() if getattr(module, "keeps_statistics", False)]
    if groups == 1 and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, GroupedBatchNorm2d(child, parallel, groups, copies, during))
    for name in keeps:
        model.get_submodule(name).keeps_statistics = True  # type: ignore[assignment]
    return model
