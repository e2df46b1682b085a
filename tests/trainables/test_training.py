"""The epoch loop: exact resuming, schedules, accumulation, divergence, what it keeps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables import optim
from trainables.config import OptimizerConfig, ScheduleConfig, TrialConfig
from trainables.data.longtail import split
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import _Trial, train


def config(**over: Any) -> TrialConfig:
    tree: dict[str, Any] = {
        "data": {"name": "digits", "imbalance": {"factor": 20}},
        "model": {"backbone": "resnet8", "experts": 2},
        "augmentation": {"copies": 2},
        "training": {"epochs": 4, "batch_size": 64},
        "schedule": {"name": "cosine"},
    }
    for key, value in over.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return TrialConfig.model_validate(tree)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)["network"]


@pytest.mark.parametrize(
    "over",
    [
        {"method": {"name": "ncl_pp", "weights": "learnable", "hard_select": "random"}},
        {"augmentation": {"mix": "mixup"}},
        {"augmentation": {"mix": "cutmix"}, "sampling": {"name": "class_balanced"}},
        {"augmentation": {"policy": "auto"}, "optimizer": {"clip_norm": 1.0}, "training": {"accumulate": 2}},
        {"training": {"precision": "bf16"}, "data": {"data_ratio": 0.4}},  # slow on a CPU
    ],
)
def test_a_run_that_was_interrupted_ends_with_the_same_weights_bit_for_bit(
    over: dict[str, Any], digits: Any, tmp_path: Path
) -> None:
    c = config(**over)
    data = split(c.data, digits)

    def run(name: str, stop_after: int | None = None) -> list[Report]:
        options = RunOptions(folder=tmp_path / name, checkpoint_seconds=0, keep_final=True)
        reports = []
        for report in train(c, data, options):
            reports.append(report)
            if report.epoch == stop_after:
                break
        return reports

    whole = run("whole")
    first = run("parts", stop_after=3)  # its last checkpoint is that of epoch 2: a report comes before its checkpoint
    torch.manual_seed(123)  # whatever the process did in between
    second = run("parts")
    assert [r.epoch for r in first] == [1, 2, 3] and [r.epoch for r in second] == [3, 4]
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for mine, theirs in zip(whole[2:], second, strict=True):
        same = {k: v for k, v in mine.metrics.items() if "second" not in k and "memory" not in k}
        assert same == {k: theirs.metrics[k] for k in same}


def test_the_same_trial_twice_agrees_to_the_bit_and_another_seed_does_not(digits: Any) -> None:
    c = config(training={"epochs": 1})
    data = split(c.data, digits)
    losses = [next(train(c, data, RunOptions())).metrics["train/loss"] for _ in range(2)]
    other = next(train(c.model_copy(update={"seed": 1}), data, RunOptions())).metrics["train/loss"]
    assert losses[0] == losses[1] != other


def test_final_files(digits: Any, tmp_path: Path) -> None:
    c = config(training={"epochs": 1})
    data = split(c.data, digits)
    (report,) = train(c, data, RunOptions(folder=tmp_path, keep_final=True))
    final = np.load(tmp_path / "final.npz")
    assert final["logits"].shape == (2, 500, 10) and final["logits"].dtype == np.float16
    assert final["features"].shape == (2, 500, 64)
    assert final["kl_experts"].shape == final["kl_copies"].shape == (10,)
    ensemble = final["logits"].astype(np.float64).mean(0).argmax(-1)
    assert (ensemble == final["labels"]).mean() == pytest.approx(report.metrics["test/ensemble_top1"], abs=0.005)
    assert final["kl_experts"].mean() == pytest.approx(report.metrics["test/kl_experts"], rel=1e-5)  # 50 images a class
    assert final["kl_copies"].mean() == pytest.approx(report.metrics["test/kl_copies"], rel=1e-5)
    assert len(report.per_class["test/ensemble"]) == 10


def test_evaluation_cadence(digits: Any) -> None:
    c = config(training={"epochs": 5}, evaluation={"every": 2})
    reports = list(train(c, split(c.data, digits), RunOptions()))
    assert [("test/ensemble_top1" in r.metrics) for r in reports] == [False, True, False, True, True]
    assert [r.done for r in reports] == [False] * 4 + [True]


def test_evaluating_does_not_change_training(digits: Any) -> None:
    quiet, often = config(training={"epochs": 3}), config(training={"epochs": 3}, evaluation={"every": 1})
    a, b = (list(train(c, split(c.data, digits), RunOptions()))[-1].metrics for c in (quiet, often))
    assert a["train/loss"] == b["train/loss"] and a["test/ensemble_top1"] == b["test/ensemble_top1"]


def test_divergence_ends_the_trial_with_the_last_finite_metrics(digits: Any) -> None:
    c = config(optimizer={"lr": 1e12}, training={"epochs": 6})
    reports = list(train(c, split(c.data, digits), RunOptions()))
    assert reports[-1].diverged and reports[-1].done and reports[-1].metrics == {}
    assert all(math.isfinite(v) for r in reports for v in r.metrics.values())
    assert len(reports) < 6


def test_accumulation_is_the_mean_of_its_batches(digits: Any) -> None:
    """Two batches accumulated take the step of their summed gradients, worked out on a copy without BatchNorm updates."""
    c = config(training={"batch_size": 32, "accumulate": 2, "precision": "fp64"}, method={"name": "bsce"})
    trial = _Trial(c, split(c.data, digits), RunOptions())
    steps = trial.feed.steps(0)
    assert len(steps) % 2 == 0 and all(len(step.image) == 32 for step in steps)
    assert [step.last for step in steps[:4]] == [False, True, False, True]
    trial.network.train()
    parameters, two = list(trial.network.parameters()), [batch for _, batch in trial.feed.batches(steps[:2], 0)]
    gradients = [torch.autograd.grad(trial.step(batch)["loss"], parameters) for batch in two]
    before = [p.detach().clone() for p in parameters]
    for step, batch in zip(steps, two, strict=False):
        trial._forward_backward(step, batch)
    trial._optimizer_step()
    o = c.optimizer
    for p, old, g0, g1 in zip(parameters, before, *gradients, strict=True):
        g = (g0 + g1) / 2 + o.weight_decay * old
        torch.testing.assert_close(
            p.detach(), old - o.lr * (1 + o.momentum) * g, rtol=1e-9, atol=1e-12
        )  # first nesterov step


def test_last_partial_batch_is_dropped_unless_alone(digits: Any) -> None:
    c = config()
    n = int(split(c.data, digits).class_counts.sum())
    sizes = [len(step.image) for step in _Trial(c, split(c.data, digits), RunOptions()).feed.steps(0)]
    assert sizes == [64] * (n // 64)
    big = config(training={"batch_size": 5000})
    assert [len(s.image) for s in _Trial(big, split(big.data, digits), RunOptions()).feed.steps(0)] == [n]


def test_learnable_weights_have_no_weight_decay(digits: Any) -> None:
    c = config(method={"name": "ncl_pp", "weights": "learnable"})
    trial = _Trial(c, split(c.data, digits), RunOptions())
    assert [g["weight_decay"] for g in trial.optimizer.param_groups] == [2e-4, 0.0]
    metrics = trial.train_epoch()
    assert metrics["train/lambda_intra"] + metrics["train/lambda_inter"] == pytest.approx(1, abs=1e-6)
    assert metrics["train/lambda_intra"] != 0.5


# -- learning rate ---------------------------------------------------------------------------------------------------------


def test_the_official_warm_up_and_milestones() -> None:
    schedule = ScheduleConfig(name="multistep", milestones=(320, 360), warmup_epochs=5, warmup_start=1 / 3)
    lrs = [optim.learning_rate(OptimizerConfig(lr=0.1), schedule, 400, e) for e in range(400)]
    assert [round(lr, 4) for lr in lrs[:6]] == [0.0467, 0.06, 0.0733, 0.0867, 0.1, 0.1]
    assert lrs[319] == pytest.approx(0.1) and lrs[320] == pytest.approx(0.01) and lrs[360] == pytest.approx(0.001)


def test_cosine_equals_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=0.2)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=50, eta_min=1e-4)
    schedule = ScheduleConfig(name="cosine", min_lr=1e-4)
    for epoch in range(50):
        assert optim.learning_rate(OptimizerConfig(lr=0.2), schedule, 50, epoch) == pytest.approx(
            sgd.param_groups[0]["lr"]
        )
        sgd.step()
        reference.step()


@pytest.mark.parametrize("name, rounds", [("fp32", False), ("tf32", True), ("bf16", False), ("fp32", False)])
def test_only_tf32_lets_gpus_round_products(name: str, rounds: bool, digits: Any) -> None:
    c = config(training={"precision": name})
    _Trial(c, split(c.data, digits), RunOptions())
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is rounds
