"""On a CUDA device: what trials compute there, against the CPU. Nothing of Ray, so that a bare machine will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import TRAINED, make_batch, make_method
from tests.trainables.test_no_waiting import POLICIES, of_method
from tests.trainables.test_parallel import spawn, trial
from tests.trainables.test_training import config, weights
from trainables import augmentation, draws
from trainables.augmentation.options import AugmentationConfig
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.parallel import Parallel
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import _Trial, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
GPU = torch.device("cuda")


def test_draws_are_the_same_bits() -> None:
    image = torch.arange(10_000)
    for key in ((3, 5, image, image % 3, 1), (0, 2**31, image, 0, 0)):
        here = draws.uniforms(key, 7)
        there = draws.uniforms([part.to(GPU) if isinstance(part, torch.Tensor) else part for part in key], 7, GPU)
        assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("size", [27, 28, 32])  # a division by 32² is exact however a device makes it
@pytest.mark.parametrize("options", POLICIES, ids=str)
def test_augmented_pixels_are_the_same_bits(options: dict[str, Any], size: int) -> None:
    a = AugmentationConfig(**options)
    policy = augmentation.build(a.policy, a, size=size)
    generator = torch.Generator().manual_seed(0)
    side = size + 12 if a.crop == "random_resized_crop" else size
    images = torch.randint(256, (256, 3, side, side), generator=generator).byte()
    images[:3] = torch.tensor([0, 200, 255]).view(3, 1, 1, 1).byte()  # of one grey level
    u = torch.rand(256, policy.draws, generator=generator)
    here, there = policy(images, u), policy(images.to(GPU), u.to(GPU)).cpu()
    differ = (here != there).flatten(1).any(1)
    assert not differ.any(), f"{int(differ.sum())} images, by {int((here.int() - there.int()).abs().max())} at most"


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "one_way_smoothing"])
def test_losses_and_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(3, 2, 24, 10, generator=generator, dtype=torch.float64)
    labels = torch.randint(10, (24,), generator=generator).tolist()
    found = []
    for device in (torch.device("cpu"), GPU):
        logits = z.clone().to(device).requires_grad_()
        batch = make_batch(logits, labels)
        batch = type(batch)(**{k: _moved(v, device) for k, v in vars(batch).items()})
        loss = make_method(z, [90, 70, 50, 40, 30, 20, 12, 9, 6, 4], name=name).to(device).losses(batch)["loss"]
        loss.backward()
        found.append((float(loss.detach()), logits.grad.cpu()))
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-10)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-8, atol=1e-12)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    "c",
    [
        *(config(augmentation={"copies": 2, **options}) for options in POLICIES),
        config(augmentation={"copies": 2, "mix": "mixup"}),
        config(augmentation={"copies": 2, "mix": "cutmix"}),
        *(
            of_method(n)
            for n in TRAINED
            if n != "one_way_smoothing" and not (made := of_method(n)).method.requires(made)
        ),
    ],
    ids=lambda c: f"{c.method.name}-{c.augmentation.policy}-{c.augmentation.mix}",
)
def test_nothing_inside_an_epoch_waits(c: TrialConfig, digits: Any) -> None:
    """Sampled, augmented and mixed batches included; in the last epoch, when all that begins late has begun."""
    trial = _Trial(c, split(c.data, digits), RunOptions(device=GPU))
    trial.network.train()
    trial.method.train()
    last = c.loop.epochs - 1
    steps = trial.feed.steps(last)[:3]
    batches = trial.feed.batches(steps, last)
    for number in range(len(steps)):
        if number:  # the first one chooses kernels, and sends constants
            torch.cuda.set_sync_debug_mode("error")
        try:
            losses = trial._forward_backward(*next(batches))
            trial._optimizer_step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(steps) == 3 and torch.isfinite(losses["loss"])


def run(c: TrialConfig, digits: Any, **options: Any) -> list[Report]:
    return list(train(c, split(c.data, digits), RunOptions(device=GPU, **options)))


def test_deterministic_means_the_same_bits(digits: Any, tmp_path: Path) -> None:
    c = config(training={"deterministic": True, "epochs": 2}, augmentation={"policy": "auto", "mix": "cutmix"})
    for name in ("first", "second"):
        run(c, digits, folder=tmp_path / name, keep_final=True)
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_trial_learns_as_on_the_cpu(precision: str, digits: Any) -> None:
    c = config(training={"epochs": 8, "precision": precision})
    last = run(c, digits)[-1].metrics
    plain = list(train(config(training={"epochs": 8}), split(c.data, digits), RunOptions()))[-1].metrics
    assert last["test/ensemble_top1"] == pytest.approx(plain["test/ensemble_top1"], abs=0.05)
    assert last["peak_memory_bytes"] > 0


def test_float64_gives_the_numbers_of_the_cpu(digits: Any) -> None:
    c = TrialConfig.model_validate(trial())
    there, here = run(c, digits), list(train(c, split(c.data, digits), RunOptions()))
    for ours, theirs in zip(there, here, strict=True):
        assert ours.metrics["train/loss"] == pytest.approx(theirs.metrics["train/loss"], rel=1e-7)


def test_a_run_goes_on_with_the_same_bits(digits: Any, tmp_path: Path) -> None:
    c = config(training={"deterministic": True})
    run(c, digits, folder=tmp_path / "whole", keep_final=True)
    data, options = split(c.data, digits), {"checkpoint_seconds": 0.0, "keep_final": True}
    broken = train(c, data, RunOptions(device=GPU, folder=tmp_path / "parts", **options))
    for _ in range(3):
        next(broken)
    broken.close()
    assert run(c, digits, folder=tmp_path / "parts", **options)[0].epoch > 1
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_out_of_memory_has_its_own_exception(digits: Any) -> None:
    """The one by which a sweep tells a configuration that is too large from one that fails."""
    c = config(augmentation={"copies": 64}, model={"backbone": "resnet56"}, training={"batch_size": 4096})
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            run(c, digits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def worker(rank: int, workers: int, port: int, out: Path) -> None:
    """One process of the group: NCCL with a device each, gloo where both share one."""
    import torch.distributed as dist

    from tests.conftest import read_digits

    many = torch.cuda.device_count() >= workers
    device = torch.device("cuda", rank if many else 0)
    torch.cuda.set_device(device)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("nccl" if many else "gloo", init_method=address, rank=rank, world_size=workers)
    c = TrialConfig.model_validate(trial())
    options = RunOptions(device=device, parallel=Parallel(rank, workers))
    reports = list(train(c, split(c.data, read_digits()), options))
    dist.destroy_process_group()
    if rank == 0:
        torch.save([report.metrics["train/loss"] for report in reports], out / f"{workers}.pt")


def test_two_workers(digits: Any, tmp_path: Path) -> None:
    losses = spawn("tests.trainables.test_gpu", 2, tmp_path)
    c = TrialConfig.model_validate(trial())
    alone = [report.metrics["train/loss"] for report in run(c, digits)]
    assert losses == pytest.approx(alone, rel=1e-7)
