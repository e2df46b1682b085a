"""A few steps of every method, as `resources: auto` takes them, and processes that do not get that far."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainables.helpers import small_trial
from trainables import probe
from trainables.config import TrialConfig
from trainables.errors import NoRoom
from trainables.methods import METHODS
from trainables.probe import Request, measured, noise, train_together


def request(made: TrialConfig, counts: list[int], on_disk: bool = False) -> Request:
    return Request(made.model_dump(mode="json"), counts, 8, on_disk, "cpu", 1)


@pytest.mark.parametrize("method", METHODS)
def test_methods(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    made = small_trial(method)
    if made.method.requires(made):
        pytest.skip("timed as BSCE")
    counts = [40, 5] if method == "one_way_smoothing" else [40, 20, 10, 5, 3]
    seen = measured(request(made, counts), lambda: None)
    assert seen.steps_per_second > 0 and seen.peak_bytes > 1e8 and seen.room_bytes == 0


def test_epochs_of_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps go on over as many epochs as they need."""
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    made = small_trial("bsce", {"training": {"batch_size": 16, "accumulate": 8}})
    assert measured(request(made, [100, 30, 4]), lambda: None).steps_per_second > 0


def test_images_on_disk_are_few_that_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise([1_000_000, 5], 64, few=32, on_disk=True)
    assert data.train.images.shape == (1_000_005, 3, 64, 64) and data.class_counts.tolist() == [1_000_000, 5]
    assert np.array_equal(data.train.images[[0]], data.train.images[[32]])
    monkeypatch.setattr(probe, "SECONDS", 0.0)
    assert measured(request(small_trial("bsce"), [300, 20], on_disk=True), lambda: None).steps_per_second > 0


def test_two_side_by_side_and_why_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_trial("bsce")
    first, second = train_together(request(made, [40, 20]), 2)
    assert first.steps_per_second > 0 and second.steps_per_second > 0 and second.peak_bytes > 1e8
    wrong = Request(made.model_dump(mode="json"), [40, 20], 8, False, "no such device", 1)
    with pytest.raises(NoRoom, match="no such device"):
        train_together(wrong, 1)
