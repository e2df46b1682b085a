"""The epoch loop. A generator that yields one report per epoch and knows nothing of Ray.

Legend: ``K`` experts, ``T`` augmented copies, ``B`` images, ``C`` classes. Every draw is counter-based (``draws``), so a run
that goes on from a checkpoint, or in another process, makes the same draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables import augmentation, checkpoint, draws, memory, models, optim
from trainables.config import TrialConfig
from trainables.cost import count
from trainables.data.longtail import TrialData
from trainables.data.mapped import Rows
from trainables.evaluation import evaluate, write_final
from trainables.files import Location
from trainables.methods import method_class
from trainables.methods.base import Batch, Method
from trainables.metrics import hits
from trainables.models import batch_norm
from trainables.parallel import Parallel, Traffic
from trainables.precision import autocast, dtype_of, warn_if_emulated


@dataclass(frozen=True)
class Report:
    """What one epoch gave. ``metrics`` are scalars by name, ``train/…`` and ``val/…`` or ``test/…``."""

    epoch: int  # finished epochs, from 1
    metrics: dict[str, float]
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    done: bool = False
    diverged: bool = False


@dataclass(frozen=True)
class RunOptions:
    """Where and how often things are written, and on what it runs: nothing that changes a number."""

    device: torch.device = torch.device("cpu")
    folder: Location | None = None  # checkpoint, weights and final.npz; None: nothing is kept
    checkpoint_seconds: float = 30.0
    keep_final: bool = False  # write weights.pt and final.npz at the end
    before_checkpoint: Callable[[], None] | None = None  # for what must be on disk before the checkpoint is
    parallel: Parallel = Parallel()  # this process among the workers of the trial
    teachers: tuple[Location, ...] = ()  # weights.pt of what `method.teachers` names, in its order


def train(config: TrialConfig, data: TrialData, run: RunOptions) -> Generator[Report]:
    """Train one trial, from its checkpoint if there is one; yields a report after every epoch.

    With several workers every one of them runs this; rank 0 writes, and its reports are the trial's.
    """
    trial = _Trial(config, data, run)
    trial.restore()
    while trial.epoch < config.training.epochs:
        started = time.monotonic()
        memory.reset_peak(run.device)
        metrics = trial.train_epoch()
        trial.epoch += 1
        done = trial.epoch == config.training.epochs
        if not math.isfinite(metrics["train/loss"]):
            yield Report(trial.epoch, {}, done=True, diverged=True)
            return
        per_class = {}
        every = config.evaluation.every
        if done or (every is not None and trial.epoch % every == 0):
            evaluation = evaluate(trial.model, data, config, run.device, run.parallel, full=done)
            metrics |= evaluation.scalars
            per_class = evaluation.per_class
            if done:
                size = config.data.image_size or data.train.images.shape[-1]
                metrics |= count(config.model, len(data.class_counts), size, config.augmentation.copies).metrics()
            if done and run.keep_final and run.folder is not None and run.parallel.leads:
                write_final(run.folder, trial.model, data, config, run.device, evaluation)
        metrics["seconds"] = time.monotonic() - started
        metrics["peak_memory_bytes"] = run.parallel.largest(float(memory.peak(run.device)))
        # What is not finite is absent: no store of numbers agrees with another on how to keep it.
        yield Report(trial.epoch, {k: v for k, v in metrics.items() if math.isfinite(v)}, per_class, done=done)
        # After the report was taken: whoever keeps the history has this epoch before the checkpoint says so.
        if not done:
            trial.checkpoint_if_due()


class _Step(nn.Module):
    """The forward pass and the losses, as one module: what is wrapped for several workers."""

    def __init__(self, model: models.Experts, method: Method, config: TrialConfig) -> None:
        super().__init__()
        self.model, self.method, self.config = model, method, config

    def forward(self, inputs: Tensor, look: Batch) -> dict[str, Tensor]:
        """Losses and train accuracy of inputs ``[T·b, 3, H, W]``; ``look`` is a batch without its logits."""
        with autocast(self.config, inputs.device):
            logits, _ = self.model(inputs)  # [K, T·b, C]
        # Losses are taken in full precision.
        logits = logits.to(inputs.dtype).unflatten(1, (self.config.augmentation.copies, len(look.labels)))
        correct = hits(logits.detach(), look.labels, 1).to(inputs.dtype).mean()
        return {**self.method.losses(replace(look, logits=logits)), "top1": correct}


class _Trial:
    """The state of a run between epochs."""

    def __init__(self, config: TrialConfig, data: TrialData, run: RunOptions) -> None:
        self.config, self.run = config, run
        self.epoch = 0
        self.mean, self.std = data.mean, data.std
        torch.use_deterministic_algorithms(config.training.deterministic)
        torch.backends.cudnn.benchmark = not config.training.deterministic
        warn_if_emulated(config, run.device)
        self.dtype = dtype = dtype_of(config)
        # uint8 [N, 3, H, W] on the device; of a set that does not fit into memory, on disk.
        self.images: Tensor | Rows = (
            data.train.images
            if isinstance(data.train.images, Rows)
            else torch.from_numpy(np.ascontiguousarray(data.train.images)).to(run.device)
        )
        self.labels = torch.from_numpy(data.train.labels).to(run.device)  # int64 [N]
        counts = torch.from_numpy(data.class_counts)
        self.model = models.build(config.model, len(counts), config.seed)
        groups, copies = config.training.batch_norm_groups, config.augmentation.copies
        self.traffic = Traffic(run.device)
        batch_norm.convert(self.model, run.parallel, groups, copies, run.device, self.traffic)
        self.model.to(run.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method = method_class(config.method.name)(config, counts).to(run.device, dtype)
        self.teachers = self._load_teachers(len(counts))
        self.step = self._wrapped(_Step(self.model, self.method, config))
        self.optimizer = optim.build(config.optimizer, self.model, self.method)
        a = config.augmentation
        self.policy = augmentation.build(
            a.policy, size=config.data.image_size or self.images.shape[-1], n=a.n, m=a.m, cutout=a.cutout
        )
        self.saved = time.monotonic()

    def _load_teachers(self, classes: int) -> list[models.Experts]:
        """The teachers with their final weights, frozen; raises ``ValueError`` if not all are given."""
        wanted = self.config.method.teachers(self.config)
        if len(wanted) != len(self.run.teachers):
            raise ValueError(f"{self.config.method.name} needs {len(wanted)} teachers, got {len(self.run.teachers)}")
        loaded = []
        for teacher, path in zip(wanted, self.run.teachers, strict=True):
            state = checkpoint.load(path)
            if state is None:
                raise ValueError(f"the teacher's weights {path} are missing or broken")
            model = models.build(teacher.model, classes, teacher.seed)
            model.load_state_dict(state["model"])
            model.to(self.run.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            loaded.append(model.eval().requires_grad_(False))
        return loaded

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float]:
        """All batches of one epoch; component losses and train accuracy are means over them."""
        training = self.config.training
        lr = optim.learning_rate(self.config.optimizer, self.config.schedule, training.epochs, self.epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        started = time.monotonic()
        sums: dict[str, Tensor] = {}
        batches = self._batches()
        for number, (batch, image, pixels) in enumerate(self._pixels(batches)):
            last = (number + 1) % training.accumulate == 0
            share = self.run.parallel.share(batch)
            with nullcontext() if last else self._no_sync():  # gradients are exchanged once an optimiser step
                losses = self._forward(batch, image, pixels)
                # One optimiser step sees `accumulate` batches: their mean.
                (losses["loss"] * (share / training.accumulate)).backward()
            if last:
                self._optimizer_step()
            for name, value in losses.items():
                # Stays on the device: reading a value here would wait for it at every step.
                value = value.detach() * share
                sums[name] = sums[name] + value if name in sums else value
        totals = self.run.parallel.mean(torch.stack(list(sums.values())))
        means = {
            f"train/{name}": float(t) / len(batches) for name, t in zip(sums, totals, strict=True)
        }  # a device sync
        seconds = time.monotonic() - started
        seen = sum(map(len, batches))
        own = sum(len(self.run.parallel.shard(batch)) for batch in batches)
        return {
            **means,
            **self.run.parallel.throughput(own, seconds, self.traffic.take()),
            **{f"train/{name}": value for name, value in self.method.state_metrics().items()},
            "train/lr": lr,
            "train/images_per_second": seen / seconds,
        }

    def _batches(self) -> list[Tensor]:
        """Image numbers, int64 ``[B]`` each; the last partial batch is dropped unless the set is smaller than a batch.

        So is the last group of fewer than ``accumulate`` batches; ``check_batches`` has seen to it that it is not the only one.
        """
        training = self.config.training
        order = draws.permutation(self.config.seed, draws.STREAMS["order"], self.epoch, n=len(self.labels))
        batches = list(order.split(training.batch_size))
        if len(batches) > 1 and len(batches[-1]) < training.batch_size:
            batches.pop()
        whole = len(batches) // training.accumulate * training.accumulate
        return [batch.to(self.run.device) for batch in batches[:whole]]

    def _pixels(self, batches: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Image numbers of the batch and of this worker, with uint8 images ``[b, 3, H, W]`` of the latter.

        Images on disk are read one batch ahead, in a thread.
        """
        mine = [self._needed(batch) for batch in batches]
        if isinstance(self.images, Tensor):
            for batch, image in zip(batches, mine, strict=True):
                yield batch, image, self.images[image]
            return
        rows = self.images
        with ThreadPoolExecutor(1) as reader:

            def read(image: Tensor) -> Future[Tensor]:
                return reader.submit(lambda: torch.from_numpy(rows[image.cpu().numpy()]))

            ahead = read(mine[0])
            for batch, image, following in zip(batches, mine, [*mine[1:], None], strict=True):
                pixels = ahead.result()
                if following is not None:
                    ahead = read(following)
                yield batch, image, pixels.to(self.run.device, non_blocking=True)

    def _needed(self, batch: Tensor) -> Tensor:
        """The images that this worker augments: its own and, with mixup over several workers, their partners."""
        own = self.run.parallel.shard(batch)
        if self.config.augmentation.policy != "mixup" or self.run.parallel.workers == 1:
            return own
        return torch.cat([own, batch[self.run.parallel.shard(self._mixup(batch)[0])]])

    def _forward(self, batch: Tensor, image: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        """Augment, run all experts on all copies, take the losses and the train accuracy, of this worker's images."""
        config, device, parallel = self.config, self.run.device, self.run.parallel
        t, n = config.augmentation.copies, len(image)
        copies = torch.arange(t, device=device)[:, None]
        key = (config.seed, draws.STREAMS["augment"], self.epoch, image, copies)
        u = draws.uniforms(key, self.policy.draws, device=device)  # [T, n, draws]
        pixels = pixels.repeat(t, 1, 1, 1)  # uint8 [T·n, 3, H, W], copy by copy
        pixels = self.policy(pixels, u.flatten(0, 1))
        inputs = augmentation.normalize(pixels, self.mean, self.std, dtype=self.dtype)
        own = parallel.shard(batch)
        partner_labels = coefficient = None
        if config.augmentation.policy == "mixup":
            partner, coefficient = map(parallel.shard, self._mixup(batch))
            partner_labels = self.labels[batch[partner]]
            # Where partners lie among the augmented images: behind our own, or anywhere in a batch that is all ours.
            at = partner if parallel.workers == 1 else len(own) + torch.arange(len(own), device=device)
            mixed = augmentation.mixup(
                inputs, (at + copies * n).flatten(), coefficient.repeat(t), of=self._own(t, n, own)
            )
            inputs = mixed
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with autocast(config, device):
            taught = torch.cat([teacher(inputs)[0] for teacher in self.teachers]) if self.teachers else None
        teacher_logits = taught.to(self.dtype).unflatten(1, (t, len(own))) if taught is not None else None
        look = Batch(
            torch.empty(0), self.labels[own], own, self.epoch, config.seed, partner_labels, coefficient, teacher_logits
        )
        losses: dict[str, Tensor] = self.step(inputs, look)
        return losses

    @staticmethod
    def _own(copies: int, n: int, own: Tensor) -> Tensor:
        """Positions of this worker's own images among the ``T·n`` augmented ones, copy by copy."""
        device = own.device
        return (torch.arange(copies, device=device)[:, None] * n + torch.arange(len(own), device=device)).flatten()

    def _wrapped(self, step: nn.Module) -> nn.Module:
        """With several workers, gradients of the network and of learnable loss weights are averaged over them."""
        if self.run.parallel.workers == 1:
            return step
        devices = [self.run.device] if self.run.device.type == "cuda" else None
        wrapped = DistributedDataParallel(step, device_ids=devices, broadcast_buffers=False)
        # The state is the traffic alone: DDP's C++ part keeps it and the hook, where the garbage collector does not look, and
        # with this object in one of them no trial of a worker that goes on would ever be freed.
        wrapped.register_comm_hook(self.traffic, lambda traffic, bucket: traffic.all_reduce(bucket))
        return wrapped

    def _no_sync(self) -> AbstractContextManager[None]:
        return self.step.no_sync() if isinstance(self.step, DistributedDataParallel) else nullcontext()

    def _mixup(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """A partner (a position in the batch) and a coefficient in [0, 1] ~ Beta(α, α) for every image ``[B]``."""
        config, device = self.config, self.run.device
        stream = (config.seed, draws.STREAMS["mixup"], self.epoch)
        partner = torch.argsort(draws.hash32(*stream, 0, image, device=device), stable=True)
        u = draws.uniform(*stream, 1, image, device=device)
        alpha = config.augmentation.mixup_alpha
        quantile = betaincinv(alpha, alpha, u.double().cpu().numpy())
        return partner, torch.from_numpy(quantile).to(device, self.dtype)

    def _optimizer_step(self) -> None:
        clip = self.config.optimizer.clip_norm
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([*self.model.parameters(), *self.method.parameters()], clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def checkpoint_if_due(self) -> None:
        """Write ``checkpoint.pt`` if the last one is old enough."""
        if time.monotonic() - self.saved < self.run.checkpoint_seconds or self.run.folder is None:
            return
        if not self.run.parallel.leads:
            return
        if self.run.before_checkpoint is not None:
            self.run.before_checkpoint()
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        checkpoint.save(self.run.folder / "checkpoint.pt", state)
        self.saved = time.monotonic()

    def restore(self) -> None:
        """Go on from ``checkpoint.pt`` if there is one."""
        parallel, folder = self.run.parallel, self.run.folder
        # One worker reads for all: they must not go on from different epochs.
        state = parallel.broadcast(
            checkpoint.load(folder / "checkpoint.pt") if folder is not None and parallel.leads else None
        )
        if state is None:
            return
        self.epoch = state["epoch"]
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
