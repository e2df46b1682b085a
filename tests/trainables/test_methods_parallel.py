"""Every method with 1 and 4 workers: real processes over gloo, against the plain loop in this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.helpers import required_weights, small_trial
from tests.trainables.test_parallel import check_agreement, run, spawn
from trainables.config import TrialConfig
from trainables.data.source import Source
from trainables.methods import METHODS
from trainables.parallel import Parallel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def trial_of(name: str) -> TrialConfig:
    """Two epochs in float64; an optimiser step sees 30 images, which 4 workers cannot share evenly."""
    return small_trial(name, {"training": {"precision": "fp64", "batch_size": 30, "epochs": 2}, "seed": 3})


def results_of(name: str, source: Source, parallel: Parallel, out: Path) -> dict[str, Any]:
    """Of one worker; what comes first lies below ``first`` already."""
    config = trial_of(name)
    required = required_weights(config, source, out / "first")
    return run(config.model_dump(mode="json"), source, parallel, required=required)


def worker(rank: int, workers: int, port: int, out: Path) -> None:
    """One process of the group; rank 0 keeps what it saw."""
    import torch.distributed as dist

    from tests.conftest import read_digits

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    source, parallel = read_digits(), Parallel(rank, workers)
    found = {name: results_of(name, source, parallel, out) for name in METHODS}
    dist.destroy_process_group()
    if rank == 0:
        torch.save(found, out / f"{workers}.pt")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, digits: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of four workers, and of one."""
    out = tmp_path_factory.mktemp("methods")
    alone = {name: results_of(name, digits, Parallel(), out) for name in METHODS}
    return spawn("tests.trainables.test_methods_parallel", 4, out, 420), alone


@pytest.mark.parametrize("name", METHODS)
def test_workers_do_not_change_a_method(results: tuple[dict[str, Any], dict[str, Any]], name: str) -> None:
    together, alone = results
    check_agreement(together[name], alone[name])
