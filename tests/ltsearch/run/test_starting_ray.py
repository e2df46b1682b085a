"""Ray on a machine that is too busy for the time that its parts wait for each other."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from ltsearch.run import runner
from trainables.errors import UserError


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_ray_is_started_again(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def init(**options: Any) -> None:
        started.append(options["address"])
        if len(started) <= failures:
            raise Exception(
                "The current node timed out during startup. This could happen because some of the raylet failed"
            )

    monkeypatch.setattr(ray, "init", init)
    if failures < runner.STARTS:
        runner._start_here({})
    else:
        with pytest.raises(UserError, match=r"Ray does not start on this machine \(3 tries\)"):
            runner._start_here({})
    assert started == ["local"] * min(failures + 1, runner.STARTS)


def test_what_else_is_wrong_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda **options: (_ for _ in ()).throw(ValueError("no such folder")))
    with pytest.raises(ValueError, match="no such folder"):
        runner._start_here({})
