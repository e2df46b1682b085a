"""Times and memory before they are measured, against sums worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.scaling import table_7
from ltsearch.plan.estimate import CPU_LAUNCH, CPU_RATE, TEST, TRIAL, macs, makespan, memory, share, step, work
from ltsearch.study.search import EarlyStopping
from trainables.config import TrialConfig

SCALING = Path(__file__).resolve().parents[3] / "docs" / "scaling.md"


def config(**over: object) -> TrialConfig:
    tree = {"data": {"name": "cifar10", "imbalance": {"profile": "natural"}}, "model": {"backbone": "resnet32"}}
    return TrialConfig.model_validate(tree | {"training": {"epochs": 2, "batch_size": 100}} | over)


def test_work_of_a_trial() -> None:
    one = 69e6  # ResNet-32 at 32 pixels
    assert macs("resnet32", None, 32) == one
    each = 100 * one + 2 * CPU_LAUNCH * CPU_RATE
    assert step(config()) == pytest.approx(each)
    assert work(config()) == pytest.approx(2 * 500 * each + TEST * 10_000 * one)
    three = config(model={"backbone": "resnet32", "experts": 3}, augmentation={"copies": 2})
    assert step(three) == pytest.approx(100 * 2 * 3 * one + 4 * CPU_LAUNCH * CPU_RATE)


@pytest.mark.parametrize(
    "stop, expected",
    [
        (None, 1.0),
        (EarlyStopping(rule="median"), 0.5),
        (EarlyStopping(rule="patience"), 1.0),
        (EarlyStopping(grace_epochs=1, reduction_factor=3), (1 + 2 / 3 + 6 / 9 + 18 / 27) / 27),
        (EarlyStopping(grace_epochs=10, reduction_factor=2), (10 + 10 / 2 + 7 / 4) / 27),
        # Brackets of 9, and of 9, 27 where the second is all of it: its rung is never reached before the end.
        (EarlyStopping(rule="hyperband", grace_epochs=9, reduction_factor=3), (9 + 18 / 3) / 27),
        (EarlyStopping(rule="hyperband", grace_epochs=3, reduction_factor=3), ((3 + 2 + 2) / 27 + (9 + 6) / 27) / 2),
    ],
)
def test_epochs_that_early_stopping_leaves(stop: EarlyStopping | None, expected: float) -> None:
    assert share(stop, 27) == pytest.approx(expected)


def test_slots_are_filled_as_they_fall_free() -> None:
    assert makespan([], 2) == 0
    assert makespan([3, 1, 1, 4], 2) == pytest.approx(6 + 3 * TRIAL)  # 3 | 1, 1, 4
    assert makespan([3, 1, 1, 4], 1) == pytest.approx(9 + 4 * TRIAL)
    assert makespan([3, 1, 1, 4], 100) == pytest.approx(4 + TRIAL)


def test_memory_from_the_most_similar_trial() -> None:
    """What `trainables.probe` saw of processes on CPUs (2026-11-30), in bytes, predicted from others of them."""
    sizes = {"epochs": 2, "batch_size": 64}
    network = {"backbone": "resnet32", "experts": 2}
    one = config(training=sizes)
    large = config(training=sizes, model=network, augmentation={"copies": 4})
    small = config(training=sizes, data={"name": "cifar10", "image_size": 16}, model={"backbone": "resnet8"})
    assert memory(large, [(one, 1.005e9), (small, 0.809e9)]) == pytest.approx(2.337e9, rel=0.25)
    assert memory(one, [(large, 2.337e9)]) == pytest.approx(1.005e9, rel=0.25)
    assert memory(one, [(small, 0.809e9)]) == pytest.approx(1.005e9, rel=0.25)


def test_memory_is_never_less_than_a_process_holds() -> None:
    """Networks keep 0.043 to 0.076 bytes a multiply-add: what a large one kept is not all of it the step's."""
    huge = config(training={"epochs": 2, "batch_size": 128}, model={"backbone": "resnet32", "experts": 3})
    small = config(training={"epochs": 2, "batch_size": 64}, model={"backbone": "resnet8"})
    assert memory(small, [(huge, 0.4e9 + 0.043 * 3 * 128 * 69e6)]) == 0.8e9
    bbn = config(method={"name": "bbn"}, model={"backbone": "resnet32", "experts": 2, "shared": "all_but_last_block"})
    two = config(model={"backbone": "resnet32", "experts": 2})
    assert memory(bbn, [(two, 2e9)]) == pytest.approx(2e9 + 0.05 * 100 * 2 * 69e6)


def test_the_hours_in_the_docs_are_the_models() -> None:
    """`docs/scaling.md`, Table 7 of the paper: GPUs, then hours by trials at once on each of them."""
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", SCALING.read_text(), re.M)
    assert [int(gpus) for gpus, *_ in rows] == [1, 8, 64]
    for gpus, *hours in rows:
        assert [f"{table_7(int(gpus), pack, seeds=5):.1f}" for pack in (1, 2, 4)] == hours
