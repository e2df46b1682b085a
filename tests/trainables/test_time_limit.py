"""Checkpoints before the known end of a batch system's job."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.trainables.helpers import small_trial
from trainables import time_limit
from trainables.data.longtail import split
from trainables.data.source import Source
from trainables.run_options import RunOptions
from trainables.training import train


def test_only_near_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    assert time_limit.checkpoint_after(30, None) == 30 and time_limit.checkpoint_after(30, now + 3600) == 30
    assert time_limit.checkpoint_after(30, now + 30) == 10 and time_limit.checkpoint_after(2, now + 30) == 2
    assert RunOptions(ends_at=now + 3600).checkpoint_after(60) == 60
    monkeypatch.setenv(time_limit.ENDS_AT, str(now))
    assert RunOptions().ends_at == now and RunOptions().checkpoint_after(60) == 10
    monkeypatch.delenv(time_limit.ENDS_AT)
    assert RunOptions().ends_at is None


def test_a_trial_leaves_a_checkpoint_before_its_job_ends(
    tmp_path: Path, digits: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limit, "EVERY_SECONDS", 0.0)
    config = small_trial("ce")
    for near in (False, True):
        folder = tmp_path / str(near)
        folder.mkdir()
        options = RunOptions(folder=folder, checkpoint_seconds=1e6, ends_at=time.time() + (10 if near else 1e6))
        reports = train(config, split(config.data, digits), options)
        next(reports)
        next(reports)
        assert (folder / "checkpoint.pt").exists() == near
