"""The same trial with 1, 2 and 4 workers: real processes over gloo, against the plain loop in this one."""

from __future__ import annotations

import copy
import gc
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables import memory
from trainables.config import TrialConfig
from trainables.data.longtail import split
from trainables.data.source import Source
from trainables.models.batch_norm import GroupedBatchNorm2d
from trainables.parallel import Parallel
from trainables.run_options import RunOptions
from trainables.training import train

ROOT = Path(__file__).resolve().parents[2]


def trial(**over: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.25},
        "augmentation": {"policy": "sim", "copies": 2},
        "model": {"backbone": "resnet8", "experts": 2},
        "method": {"name": "ncl_pp"},
        "optimizer": {"lr": 0.05},
        "training": {"epochs": 2, "batch_size": 32, "precision": "fp64"},
    }
    for key, value in over.items():
        section, name = key.split("__")
        tree[section] = {**tree[section], name: value}
    return tree


CASES = {
    "plain": trial(),
    "learnable weights, accumulation": trial(method__weights="learnable", training__accumulate=2),
    "mixup": trial(augmentation__mix="mixup"),
    "random hard categories, auto": trial(method__hard_select="random", augmentation__policy="auto"),
    "groups of BatchNorm": trial(training__batch_norm_groups=4),
    "clipped": trial(optimizer__clip_norm=0.5),
    "a batch that does not divide": trial(training__batch_size=27, training__epochs=1),
    "fewer images than a batch": trial(training__batch_size=4096, training__epochs=1),
}


def run(
    config: dict[str, Any],
    source: Source,
    parallel: Parallel,
    folder: Path | None = None,
    required: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """Losses and what is left at the end, of one worker."""
    made = TrialConfig.model_validate(config)
    options = RunOptions(parallel=parallel, folder=folder, keep_final=folder is not None, required=required)
    reports = list(train(made, split(made.data, source), options))
    own_peak = float(memory.peak(options.device))
    keys = [
        k for k in reports[0].metrics if k.startswith("train/") and k not in ("train/images_per_second", "train/lr")
    ]
    last = {k: v for k, v in reports[-1].metrics.items() if k.startswith("test/")}
    return {
        "epochs": [[r.metrics[k] for k in keys] for r in reports],
        "test": last,
        "per_class": reports[-1].per_class,
        "traffic": {k: v for k, v in reports[-1].metrics.items() if k.startswith("parallel/")},
        "images_per_second": reports[-1].metrics.get("train/images_per_second", 0.0),
        "peak_memory": [r.metrics["peak_memory_bytes"] for r in reports],
        "own_peak": own_peak,
    }


FOUR = "groups of BatchNorm"  # tried with four workers too, as every method is (test_methods_parallel.py)
PAIRS = [*((2, name) for name in CASES), (4, FOUR)]
pytestmark = pytest.mark.timeout(600)  # the processes wait for each other at every layer: slow on a busy machine


def worker(rank: int, workers: int, port: int, out: Path) -> None:
    """One process of the group; rank 0 keeps what it saw."""
    import torch.distributed as dist

    from tests.conftest import read_digits

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=workers)
    nodes = tuple(r // 2 for r in range(workers))  # as if two workers lay on a node
    source, parallel = read_digits(), Parallel(rank, workers, nodes)
    found = {}
    for name in (name for w, name in PAIRS if w == workers):
        found[name] = run(CASES[name], source, parallel, out / f"{workers}" / name)
    peaks = parallel.gather((found[FOUR]["peak_memory"], found[FOUR]["own_peak"]))
    kept = [thing for thing in gc.get_objects() if isinstance(thing, DistributedDataParallel)]
    dist.destroy_process_group()
    if rank == 0:
        torch.save({**found, "kept": len(kept), "peaks": peaks}, out / f"{workers}.pt")


def check_agreement(together: dict[str, Any], alone: dict[str, Any]) -> None:
    """Losses of every epoch and test metrics, but for the order in which floats are added."""
    for ours, theirs in zip(together["epochs"], alone["epochs"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
    assert together["test"].keys() == alone["test"].keys() and together["per_class"].keys() == alone["per_class"].keys()
    for key, value in alone["test"].items():
        assert together["test"][key] == pytest.approx(value, rel=1e-6, abs=1e-6), key


def spawn(module: str, workers: int, out: Path, seconds: float = 280) -> Any:
    """What ``module.worker`` keeps, run by so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"import sys; from pathlib import Path; from {module} import worker; "
    code += "worker(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(r), str(workers), str(port), str(out)], env=environment)
        for r in range(workers)
    ]
    try:
        assert [process.wait(timeout=seconds) for process in processes] == [0] * workers
    finally:
        for process in processes:
            process.kill()
    return torch.load(out / f"{workers}.pt")


class Results(dict[int, dict[str, Any]]):
    """What every case gives, by the number of workers; each is run when it is first asked for."""

    def __init__(self, digits: Source, out: Path) -> None:
        super().__init__()
        self.digits, self.out, self._alone = digits, out, dict[str, dict[str, Any]]()

    def alone(self, name: str) -> dict[str, Any]:
        """What a case gives without workers."""
        if name not in self._alone:
            self._alone[name] = run(CASES[name], self.digits, Parallel(), self.out / "1" / name)
        return self._alone[name]

    def __missing__(self, workers: int) -> dict[str, Any]:
        self[workers] = spawn("tests.trainables.test_parallel", workers, self.out)
        return self[workers]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, digits: Source) -> Results:
    return Results(digits, tmp_path_factory.mktemp("parallel"))


WORKERS = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize(
    ("workers", "name"), [pytest.param(w, name, marks=[pytest.mark.slow] if w == 4 else []) for w, name in PAIRS]
)
def test_workers_do_not_change_a_trial(results: Results, workers: int, name: str) -> None:
    check_agreement(results[workers][name], results.alone(name))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_worker_keeps_nothing_of_its_trials(results: Results, workers: int) -> None:
    """It trains one after another for as long as a sweep lasts."""
    assert results[workers]["kept"] == 0


@pytest.mark.parametrize("workers", WORKERS)
def test_traffic_is_told(results: Results, workers: int) -> None:
    """Of every node; what its workers train beside the exchange is more than what they train with it."""
    found = results[workers][FOUR]
    nodes = [f"parallel/node{n}_images_per_second" for n in range(workers // 2)]
    assert set(found["traffic"]) == {"parallel/allreduce_share", *nodes}
    assert 0 < found["traffic"]["parallel/allreduce_share"] < 1
    assert sum(found["traffic"][node] for node in nodes) > found["images_per_second"]
    assert results.alone(FOUR)["traffic"] == {}


@pytest.mark.parametrize("workers", WORKERS)
def test_the_peak_of_memory_is_the_largest_workers_on_all(results: Results, workers: int) -> None:
    told, own = zip(*results[workers]["peaks"], strict=True)
    assert len(told) == workers and all(peaks == told[0] for peaks in told)
    assert len(set(own)) > 1  # by themselves, they would have told different ones
    assert told[0][-1] <= max(own)


def test_a_worker_alone_has_the_largest_value() -> None:
    assert Parallel().largest(3.5) == 3.5 and Parallel().largest(-1.0) == -1.0


def test_groups_are_what_unsynchronised_workers_compute() -> None:
    """Each group against torch's BatchNorm on that part alone; running statistics are their mean."""
    torch.manual_seed(0)
    copies, groups, images = 3, 2, 4
    x = torch.randn(copies * groups * images, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    like = nn.BatchNorm2d(5).double()
    nn.init.uniform_(like.weight)
    grouped = GroupedBatchNorm2d(copy.deepcopy(like), Parallel(), groups, copies).double()
    out = grouped(x).unflatten(0, (copies, groups, images))
    means, variances = [], []
    for g in range(groups):
        alone = nn.BatchNorm2d(5).double()
        alone.load_state_dict(like.state_dict())
        part = x.unflatten(0, (copies, groups, images))[:, g].flatten(0, 1)
        torch.testing.assert_close(out[:, g].flatten(0, 1), alone(part))
        means.append(alone.running_mean)
        variances.append(alone.running_var)
    torch.testing.assert_close(grouped.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(grouped.running_var, torch.stack(variances).mean(0))
    assert torch.autograd.gradcheck(
        lambda v: GroupedBatchNorm2d(copy.deepcopy(like), Parallel(), groups, copies)(v), (x,)
    )


def test_one_group_is_plain_batch_norm() -> None:
    x = torch.randn(12, 5, 3, 3)
    like = nn.BatchNorm2d(5)
    grouped = GroupedBatchNorm2d(copy.deepcopy(like), Parallel(), 1, 2)
    torch.testing.assert_close(grouped(x), like(x))
    torch.testing.assert_close(grouped.running_var, like.running_var)
    torch.testing.assert_close(grouped.eval()(x), like.eval()(x))


def test_shards() -> None:
    batch = torch.arange(10)
    for workers in (1, 2, 3, 4):
        parts = [Parallel(r, workers).shard(batch) for r in range(workers)]
        assert torch.equal(torch.cat(parts), batch)
        shares = [Parallel(r, workers).share(batch) for r in range(workers)]
        assert sum(shares) / workers == pytest.approx(1)  # weights of the mean over workers
        means = sum(p.double().mean() * s for p, s in zip(parts, shares, strict=True)) / workers
        assert float(means) == pytest.approx(batch.double().mean())


def test_groups_that_cannot_be_laid_out() -> None:
    with pytest.raises(ValueError, match="3 groups of BatchNorm cannot be split over 2 workers"):
        GroupedBatchNorm2d(nn.BatchNorm2d(2), Parallel(0, 2), 3, 1)
    with pytest.raises(ValueError, match="batch_norm_groups = 5 must divide training.batch_size = 32"):
        TrialConfig.model_validate(trial(training__batch_norm_groups=5))
