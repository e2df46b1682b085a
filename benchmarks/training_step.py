"""Training step and loss against a literal implementation (``literal``)."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import literal, workload
from benchmarks.literal import LiteralTrainer
from benchmarks.measure import Row, Spread, interleaved, rates, ratios, usable_cpus
from benchmarks.workload import OurTrainer
from trainables.methods import method_class
from trainables.methods.ncl_pp.options import NCLppOptions

TITLE = "Training step"
TARGETS = {"fp32": 1.35, "bf16": 2.5}
TOLERANCE = 1e-4
SHAPES = [(k, t, c) for c in (100, 1000) for k, t in ((2, 4), (3, 4), (5, 5))]


def run(quick: bool) -> list[Row]:
    torch.set_num_threads(usable_cpus())
    return [*_steps(2 if quick else 12), *(_loss_row(*shape, 2 if quick else 20) for shape in SHAPES)]


def _steps(rounds: int) -> list[Row]:
    images, labels = workload.random_batch()
    ours = {precision: OurTrainer(precision) for precision in TARGETS}
    fused = {f"{precision}, compiled": OurTrainer(precision, compiled=True) for precision in TARGETS}
    counts = workload.class_counts(ours["fp32"].trial)
    plain = LiteralTrainer(workload.EXPERTS, counts, lr=workload.LEARNING_RATE)
    plain.copy_weights(ours["fp32"].network)
    took = {name: _seconds(partial(trainer.step, images, labels)) for name, trainer in fused.items()}
    rows = [_same_loss(plain, ours | fused, images, labels)]
    trainers: dict[str, LiteralTrainer | OurTrainer] = {"literal": plain, **ours, **fused}
    seconds = interleaved({name: partial(trainer.step, images, labels) for name, trainer in trainers.items()}, rounds)
    for name in (*ours, *fused):
        target, ratio = TARGETS.get(name), ratios(seconds["literal"], seconds[name])
        rows.append(
            Row(
                f"step, {name}; literal in fp32",
                "image passes/s",
                ours=rates(workload.PASSES, seconds[name]),
                reference=rates(workload.PASSES, seconds["literal"]),
                ratio=ratio,
                target=f"≥ {target}" if target else "",
                met=ratio.median >= target if target else None,
                note=f"by torch.compile, in {took[name]:.0f} s" if name in took else "",
            )
        )
    return rows


def _seconds(call: Callable[[], object]) -> float:
    """Of one call: what is compiled in it is kept on disk, for the next time too."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _same_loss(plain: LiteralTrainer, ours: dict[str, OurTrainer], images: Tensor, labels: Tensor) -> Row:
    """The same weights and batch give the same loss; otherwise there is nothing to compare.

    Weights that have taken five steps, so that experts and copies differ in earnest and every term counts.
    """
    ahead = copy.deepcopy(ours["fp32"])
    for _ in range(5):
        ahead.step(images, labels)
    state = copy.deepcopy(ahead.network.state_dict())
    plain.copy_weights(ahead.network)
    values = {"literal": float(plain.loss(images, labels).detach())}
    for precision, trainer in ours.items():
        trainer.network.load_state_dict(state)
        values[precision] = float(trainer.loss(images, labels).detach())
    off = {name: abs(values[name] / values["literal"] - 1) for name in ours}
    if max(off["fp32"], off["fp32, compiled"]) > TOLERANCE:
        raise RuntimeError(f"the losses differ: {values}")
    return Row(
        "loss of the same batch and weights",
        reference=_single(values["literal"]),
        ours=_single(values["fp32"]),
        target=f"relative difference ≤ {TOLERANCE:g}",
        met=True,
        note=", ".join(
            [
                f"literal {values['literal']:.6f}",
                *(f"{name} {values[name]:.6f} (off by {off[name]:.1e})" for name in ours),
            ]
        ),
    )


def _loss_row(experts: int, copies: int, classes: int, rounds: int) -> Row:
    """The loss alone, forward and backward, on logits that do not come from a network."""
    trial = workload.config("fp32", experts=experts, copies=copies)
    counts = workload.class_counts(trial, classes)
    method = method_class(trial.method.name)(trial, counts)
    options = trial.method
    assert isinstance(options, NCLppOptions)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(experts, copies, workload.IMAGES, classes, generator=generator).mul_(3).requires_grad_()
    labels = torch.randint(classes, (workload.IMAGES,), generator=generator)
    batch = workload.batch_of(labels, logits=z)

    def ours() -> float:
        return _backward(method.losses(batch)["loss"], z)

    def plain() -> float:
        value = literal.loss(z, labels, counts, options.beta, options.lambda_intra, options.lambda_inter)
        return _backward(value, z)

    values, gradients = zip(*((call(), z.grad) for call in (plain, ours)), strict=True)
    off = abs(values[1] / values[0] - 1), float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    if max(off) > TOLERANCE:
        raise RuntimeError(
            f"K = {experts}, T = {copies}, C = {classes}: loss and gradient differ from literal's by {off}"
        )
    seconds = interleaved({"literal": plain, "ours": ours}, rounds)
    return Row(
        f"loss alone, K={experts} T={copies} C={classes}",
        "ms",
        ours=Spread.of([1000 * s for s in seconds["ours"]]),
        reference=Spread.of([1000 * s for s in seconds["literal"]]),
        ratio=ratios(seconds["literal"], seconds["ours"]),
    )


def _backward(value: Tensor, z: Tensor) -> float:
    z.grad = None
    value.backward()
    return float(value.detach())


def _single(value: float) -> Spread:
    return Spread(value, value, value)
