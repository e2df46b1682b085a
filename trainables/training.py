"""The epoch loop. A generator that yields one report per epoch and knows nothing of Ray.

Legend: ``K`` experts, ``T`` augmented copies, ``B`` images, ``b`` of them on this worker, ``C`` classes. Every draw is
counter-based (``draws``), so a run that goes on from a checkpoint, or in another process, makes the same draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainables import checkpoint, memory, optim, precision, trained
from trainables.batches import Feed, Step
from trainables.config import TrialConfig
from trainables.cost import count
from trainables.data.longtail import TrialData
from trainables.distributed import Backend
from trainables.evaluation import evaluate, images_of, write_final
from trainables.methods.base import AnyMethod, Batch
from trainables.models.network import Network
from trainables.reports import Report
from trainables.run_options import RunOptions

WITHIN_SECONDS = 60.0  # an epoch that takes longer has checkpoints inside, this far apart at least
AGREE_EVERY = 20  # optimiser steps after which workers agree on whether one is due


def train(config: TrialConfig, data: TrialData, run: RunOptions) -> Generator[Report]:
    """Train one trial, from its checkpoint if there is one; yields a report after every epoch.

    With several workers every one of them runs this; rank 0 writes, and its reports are the trial's.
    """
    trial = _Trial(config, data, run)
    notice = trial.restore()
    if notice:  # what was loaded in part is not gone on from
        trial = _Trial(config, data, run)
    while trial.epoch < trial.loop.epochs:
        started = time.monotonic() - trial.begun.seconds
        memory.reset_peak(run.device)
        metrics = trial.train_epoch() if trial.loop.trains else trial.fit()
        trial.epoch += 1
        done = trial.epoch == trial.loop.epochs
        if not math.isfinite(metrics["train/loss"]):
            yield Report(trial.epoch, {}, done=True, diverged=True)
            return
        per_class = {}
        every = config.evaluation.every
        if done or (every is not None and trial.epoch % every == 0):
            evaluation = evaluate(trial.network, trial.method, data, config, run.device, run.parallel, full=done)
            metrics |= evaluation.scalars
            per_class = evaluation.per_class
            if done:
                size = config.data.image_size or data.train.images.shape[-1]
                metrics |= count(config.model, len(data.class_counts), size, config.augmentation.copies).metrics()
            if done and run.keep_final and run.folder is not None and run.parallel.is_rank_zero:
                write_final(run.folder, trial.network, trial.method, data, config, run.device, evaluation)
        metrics["seconds"] = time.monotonic() - started
        metrics["peak_memory_bytes"] = run.parallel.largest(float(memory.peak(run.device)))
        # What is not finite is absent: no store of numbers agrees with another on how to keep it.
        yield Report(
            trial.epoch, {k: v for k, v in metrics.items() if math.isfinite(v)}, per_class, done, notice=notice
        )
        notice = ""
        # After the report was taken: whoever keeps the history has this epoch before the checkpoint says so.
        if not done and trial.is_due(run.checkpoint_after()):
            trial.checkpoint()


class StepModule(nn.Module):
    """Network and method as one module: what is wrapped for several workers."""

    def __init__(self, network: Network, method: AnyMethod) -> None:
        super().__init__()
        self.network, self.method = network, method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The forward pass and the losses."""
        losses: dict[str, Tensor] = self.method.step(self.network, batch)
        return losses


@dataclass
class _Begun:
    """How far an epoch has come. ``sums``: of losses and accuracies over this worker's batches."""

    step: int = 0
    seconds: float = 0.0  # that processes before this one took
    sums: dict[str, Tensor] = field(default_factory=dict)


class _Trial:
    """The state of a run."""

    def __init__(self, config: TrialConfig, data: TrialData, run: RunOptions) -> None:
        self.config, self.data, self.run = config, data, run
        self.loop = config.loop
        self.epoch, self.begun = 0, _Begun()
        precision.apply(config)
        precision.warn_if_emulated(config, run.device)
        dtype = precision.dtype_of(config)
        required = trained.states_for(config.method.requires(config), run.required)
        start = next((trained.read(path)["network"] for r, path in required if r.role == "start"), None)
        self.network, self.method = trained.assemble(config, torch.from_numpy(data.class_counts), start)
        self.method.parallel = run.parallel
        self.backend = Backend(run.parallel, run.device)
        groups, copies = config.training.batch_norm_groups, config.augmentation.copies
        for module in (self.network, self.method):
            self.backend.convert(module, groups, copies)
        self.network.to(run.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.method.to(run.device, dtype)
        for requirement, path in required:
            if requirement.role == "teacher":
                self.method.teachers.append(trained.load(requirement.trial, path, run.device, dtype))
            elif requirement.role == "selection":
                self.method.adopt(trained.load(requirement.trial, path, run.device, dtype))
        self.network.eval()
        self.method.survey(self.network, lambda: images_of(data.train, data, config, run.device))
        self.step = self.backend.wrap(StepModule(self.network, self.method)) if self.loop.trains else None
        self.optimizer = optim.build(self.loop.optimizer, self.method.parameter_groups(self.network))
        self.feed = Feed(config, data, run.device, run.parallel, self.method)
        self.saved = time.monotonic()

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def train_epoch(self) -> dict[str, float]:
        """All batches of one epoch; component losses and train accuracy are means over them."""
        lr = optim.learning_rate(self.loop.optimizer, self.loop.schedule, self.loop.epochs, self.epoch)
        optim.set_learning_rate(self.optimizer, lr)
        self.network.train()
        self.method.train()
        if self.begun.step == 0:
            self.method.begin_epoch(self.epoch)
        started = time.monotonic()
        sums, before, steps = self.begun.sums, self.begun.seconds, self.feed.steps(self.epoch)
        here = steps[self.begun.step :]  # what this process trains of the epoch
        for step, batch in self.feed.batches(here, self.epoch):
            losses = self._forward_backward(step, batch)
            if step.last:
                self._optimizer_step()
            for name, value in losses.items():
                # Stays on the device: reading a value here would wait for it at every step.
                value = value.detach() * step.share
                sums[name] = sums[name] + value if name in sums else value
            self.begun.step += 1
            if step.last and self.begun.step < len(steps) and self._is_due_within():
                self.begun.seconds = before + time.monotonic() - started
                self.checkpoint()
        self.begun = _Begun()
        self.method.end_epoch(self.epoch)
        totals = self.run.parallel.mean(torch.stack(list(sums.values())))
        means = {f"train/{name}": float(t) / len(steps) for name, t in zip(sums, totals, strict=True)}  # a device sync
        seconds = time.monotonic() - started
        return {
            **means,
            **self.backend.throughput(sum(len(step.own) for step in here), seconds),
            **self._state_metrics(),
            "train/lr": lr,
            "train/images_per_second": sum(len(step.image) for step in here) / seconds,
        }

    def _forward_backward(self, step: Step, batch: Batch) -> dict[str, Tensor]:
        """Losses of a batch; their gradients are added up, and exchanged between workers once an optimiser step."""
        assert self.step is not None
        with nullcontext() if step.last else self.backend.no_sync(self.step):
            losses: dict[str, Tensor] = self.step(batch)
            # One optimiser step sees `accumulate` batches: their mean.
            (losses["loss"] * (step.share / self.config.training.accumulate)).backward()
        return losses

    def _optimizer_step(self) -> None:
        clip = self.loop.optimizer.clip_norm
        if clip is not None:
            torch.nn.utils.clip_grad_norm_([*self.network.parameters(), *self.method.parameters()], clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(self.network)

    def fit(self) -> dict[str, float]:
        """Instead of an epoch, what the method works out in closed form."""
        self.network.eval()
        training = images_of(self.data.train, self.data, self.config, self.run.device)
        held_out = self.data.evaluation if self.data.split == "val" else None
        validation = images_of(held_out, self.data, self.config, self.run.device) if held_out is not None else None
        with torch.no_grad():
            metrics = self.method.fit(self.network, training, validation)
        return {"train/loss": 0.0, **{f"train/{k}": v for k, v in metrics.items()}, **self._state_metrics()}

    def _state_metrics(self) -> dict[str, float]:
        return {f"train/{name}": value for name, value in self.method.state_metrics().items()}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def is_due(self, seconds: float) -> bool:
        """Is the last checkpoint so old?"""
        return time.monotonic() - self.saved >= seconds and self.run.folder is not None

    def _is_due_within(self) -> bool:
        """Is one due inside an epoch? All workers come to the same answer, at some of the steps."""
        seconds = self.run.checkpoint_after(WITHIN_SECONDS)
        if self.run.parallel.workers == 1:
            return self.is_due(seconds)
        asked = self.begun.step // self.config.training.accumulate % AGREE_EVERY == 0
        return asked and bool(self.run.parallel.broadcast(self.is_due(seconds)))

    def checkpoint(self) -> None:
        """Write ``checkpoint.pt``: between epochs rank 0 alone, inside one all workers together."""
        parallel = self.run.parallel
        within = None
        if self.begun.step:
            counted = {name: getattr(self.method, name).cpu() for name in self.method.counted}
            parts = parallel.gather({"sums": {k: v.cpu() for k, v in self.begun.sums.items()}, "counted": counted})
            within = {"step": self.begun.step, "seconds": self.begun.seconds, "parts": parts}
        self.saved = time.monotonic()
        if not parallel.is_rank_zero or self.run.folder is None:
            return
        if self.run.before_checkpoint is not None:
            self.run.before_checkpoint()
        state: dict[str, Any] = {
            "epoch": self.epoch,
            "within": within,
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "torch_rng": torch.get_rng_state(),
        }
        checkpoint.save(self.run.folder / "checkpoint.pt", state)

    def restore(self) -> str:
        """Go on from ``checkpoint.pt`` if there is one; returns what to tell if it cannot be used, which spoils this object."""
        parallel, folder = self.run.parallel, self.run.folder
        # One worker reads for all: they must not go on from different epochs.
        found = (
            checkpoint.find(folder, self.loop.epochs) if folder is not None and parallel.is_rank_zero else (None, "")
        )
        state, told = parallel.broadcast(found)
        if state is None:
            return str(told)
        try:
            self.epoch = state["epoch"]
            self.network.load_state_dict(state["network"])
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            optim.check_state(self.optimizer)
            torch.set_rng_state(state["torch_rng"])
            if within := state.get("within"):
                self._go_on_within(within)
        except Exception as error:  # of another configuration or version: what loading raises then has no end
            return checkpoint.unusable(
                folder, f"does not fit ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            )
        return ""

    def _go_on_within(self, within: dict[str, Any]) -> None:
        """Take up an epoch: every worker what it had, or, of another number of workers, what all of them had together."""
        parallel, parts = self.run.parallel, within["parts"]
        if len(parts) == parallel.workers:
            own = parts[parallel.rank]
        else:
            sums = {name: sum(part["sums"][name] for part in parts) / len(parts) for name in parts[0]["sums"]}
            alone = float(parallel.is_rank_zero)  # counts are added up over workers, sums are averaged
            counted = {name: sum(part["counted"][name] for part in parts) * alone for name in parts[0]["counted"]}
            own = {"sums": sums, "counted": counted}
        for name, values in own["counted"].items():
            getattr(self.method, name).copy_(values)
        sums = {name: value.to(self.run.device) for name, value in own["sums"].items()}
        self.begun = _Begun(int(within["step"]), float(within["seconds"]), sums)
