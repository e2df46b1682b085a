"""Checkpoints inside an epoch: a trial that dies there ends as if it had not, alone and with workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import required_weights, small_trial
from tests.trainables.test_parallel import spawn, trial
from trainables import checkpoint, training
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.data.source import Source
from trainables.parallel import Parallel
from trainables.reports import Report
from trainables.run_options import RunOptions
from trainables.training import train

EPOCHS, ALONE = 3, Parallel()


class Died(Exception):
    """What is raised where a process is killed."""


def run(
    config: dict[str, Any],
    source: Source,
    folder: Path,
    parallel: Parallel = ALONE,
    die_at: int | None = None,
    required: tuple[Path, ...] = (),
) -> list[Report]:
    """Reports of a trial with a checkpoint after every ``AGREE_EVERY`` steps; dies before step ``die_at`` of this process."""
    made = TrialConfig.model_validate(config)
    step, taken = training._Trial._optimizer_step, 0

    def counting(trial: Any) -> None:
        nonlocal taken
        if taken == die_at:
            raise Died
        taken += 1
        step(trial)

    reports: list[Report] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "WITHIN_SECONDS", 0.0)
        patch.setattr(training, "AGREE_EVERY", 2)
        patch.setattr(training._Trial, "_optimizer_step", counting)
        options = RunOptions(
            folder=folder,
            checkpoint_seconds=0,
            keep_final=True,
            parallel=parallel,
            required=required,
        )
        try:
            for report in train(made, split(made.data, source), options):
                reports.append(report)
        except Died:
            pass
    return reports


def numbers(report: Report) -> dict[str, float]:
    return {k: v for k, v in report.metrics.items() if "second" not in k and "memory" not in k and "parallel" not in k}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / "weights.pt", weights_only=True)["network"]
    return found


def single(**over: Any) -> dict[str, Any]:
    return trial(training__precision="fp32", training__epochs=EPOCHS, training__batch_size=8, **over)


CASES = {
    "NCL++, learnable weights": single(method__weights="learnable", method__hard_select="random"),
    "accumulation": single(training__accumulate=2, optimizer__clip_norm=1.0),
    "CutMix": single(augmentation__mix="cutmix"),
    "LFME, which counts": small_trial("lfme", {"training": {"epochs": EPOCHS, "batch_size": 8}}).model_dump(
        mode="json"
    ),
}


@pytest.mark.parametrize("die_at", [3, 19])  # in the first epoch and in a later one
@pytest.mark.parametrize("name", CASES)
def test_a_trial_that_dies_inside_an_epoch_ends_with_the_same_bits(
    name: str, die_at: int, digits: Source, tmp_path: Path
) -> None:
    required = required_weights(TrialConfig.model_validate(CASES[name]), digits, tmp_path / "first")
    whole = run(CASES[name], digits, tmp_path / "whole", required=required)
    first = run(CASES[name], digits, tmp_path / "parts", die_at=die_at, required=required)
    state = checkpoint.load(tmp_path / "parts" / "checkpoint.pt")
    assert state is not None and state["within"]["step"] > 0, "it died inside an epoch"
    torch.manual_seed(123)  # whatever the process did in between
    second = run(CASES[name], digits, tmp_path / "parts", required=required)
    assert [r.epoch for r in first + second] == [1, 2, 3] and not any(r.notice for r in second)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert [numbers(r) for r in whole] == [numbers(r) for r in first + second]


def test_the_time_of_an_epoch_is_that_of_all_processes_that_trained_it(digits: Source, tmp_path: Path) -> None:
    run(CASES["accumulation"], digits, tmp_path, die_at=3)
    file = tmp_path / "checkpoint.pt"
    state = checkpoint.load(file)
    assert state is not None and 0 < state["within"]["seconds"] < 60
    state["within"]["seconds"] = 1000.0
    checkpoint.save(file, state)
    first, *later = run(CASES["accumulation"], digits, tmp_path)
    assert first.metrics["seconds"] > 1000 and first.metrics["train/images_per_second"] > 1  # of this process
    assert all(report.metrics["seconds"] < 60 for report in later)


def test_short_epochs_have_no_checkpoints_inside(digits: Source, tmp_path: Path, monkeypatch: Any) -> None:
    written = []
    monkeypatch.setattr(checkpoint, "save", lambda path, state: written.append(state["within"]))
    made = TrialConfig.model_validate(single())
    list(train(made, split(made.data, digits), RunOptions(folder=tmp_path, checkpoint_seconds=0)))
    assert written == [None] * (EPOCHS - 1)


# ------------------------------------------------------------------------------------------------------ workers

TOGETHER = {
    "NCL++": trial(training__epochs=EPOCHS, training__batch_size=8),
    "LFME": small_trial("lfme", {"training": {"epochs": EPOCHS, "batch_size": 8, "precision": "fp64"}}).model_dump(
        mode="json"
    ),
}
DIE_AT = 19  # inside the second epoch


def worker(rank: int, workers: int, port: int, out: Path) -> None:
    """Trials that die inside the second epoch and go on: with as many workers."""
    import torch.distributed as dist

    from tests.conftest import read_digits

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    source, parallel = read_digits(), Parallel(rank, workers, (0,) * workers)
    told = {}
    for name, config in TOGETHER.items():
        required = required_weights(TrialConfig.model_validate(config), source, out / "first")
        whole = run(config, source, out / "whole" / name, parallel, required=required)
        first = run(config, source, out / "parts" / name, parallel, DIE_AT, required)
        dist.barrier()
        second = run(config, source, out / "parts" / name, parallel, required=required)
        run(config, source, out / "left" / name, parallel, DIE_AT, required)  # for another number of workers
        told[name] = {"whole": list(map(numbers, whole)), "parts": list(map(numbers, first + second))}
    dist.destroy_process_group()
    if rank == 0:
        torch.save(told, out / f"{workers}.pt")


def test_workers_take_an_epoch_up_where_they_left_it(digits: Source, tmp_path: Path) -> None:
    required = {
        name: required_weights(TrialConfig.model_validate(config), digits, tmp_path / "first")
        for name, config in TOGETHER.items()
    }
    told = spawn("tests.trainables.test_within_epoch", 2, tmp_path)
    for name, config in TOGETHER.items():
        assert told[name]["parts"] == told[name]["whole"]
        state = checkpoint.load(tmp_path / "left" / name / "checkpoint.pt")
        assert state is not None and len(state["within"]["parts"]) == 2
        alone = run(config, digits, tmp_path / "left" / name, required=required[name])  # one goes on where two were
        assert len(alone) == EPOCHS - state["epoch"]
        for ours, theirs in zip(map(numbers, alone), told[name]["whole"][-len(alone) :], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)
