"""What is printed where there is no terminal."""

from __future__ import annotations

import pytest

from ltsearch.plan.cells import make_cell
from ltsearch.run.jobs import Job, Outcome
from ltsearch.show import progress
from ltsearch.show.progress import Progress
from ltsearch.store.records import Epoch, Status
from tests.ltsearch.helpers import study


def test_without_a_terminal_a_long_trial_says_now_and_then_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress("s", 1, 0, terminal=False)
    job = Job(make_cell(study()["base"], 0, "test"), "ablation", "a row · seed 0")
    shown.started(job)
    for epoch in range(1, job.epochs + 1):  # nine, 25 s each
        now[0] += 25.0
        shown.epoch(job, Epoch(epoch=epoch, metrics={"train/loss": 1 / epoch}), {})
    shown.ended(job, Outcome(Status.FINISHED))
    lines = [line.partition("]")[2].split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert [word for word, _ in lines] == ["start", "epoch", "epoch", "finished"]
    assert [what for word, what in lines if word == "epoch"] == ["3/9", "6/9"]  # the ninth is told as its end
