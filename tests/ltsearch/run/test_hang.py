"""How long an epoch may take, and what is told of one that took longer, by a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ltsearch.run import hang
from ltsearch.run.hang import STACK, Watchdog, told
from ltsearch.store.cells import HUNG
from tests.ltsearch.helpers import ROOT

HANGING = """
import sys, time
from pathlib import Path
from ltsearch.run.hang import Watchdog
def wait_for_ever():
    time.sleep(60)
watchdog = Watchdog(0.5, Path(sys.argv[1]))
watchdog.longest = 0.01
with watchdog.epoch():
    wait_for_ever()
"""


def test_a_process_that_hangs_ends_and_says_where(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path)], cwd=ROOT, capture_output=True, timeout=30)
    assert ran.returncode == 1
    said = told(tmp_path)
    assert said is not None and said.startswith("it hung: no epoch for 0:00:00 (h:mm:ss)")
    assert "it was in wait_for_ever" in said and str(tmp_path / HUNG) in said
    assert "wait_for_ever" in (tmp_path / HUNG).read_text() and not (tmp_path / STACK).exists()
    assert told(tmp_path) is None  # once


def test_the_limit_follows_the_trials_own_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(hang.time, "monotonic", lambda: now[0])
    watchdog = Watchdog(100.0, tmp_path)
    limits = [watchdog.limit()]
    for seconds in (5.0, 30.0, 2.0):
        with watchdog.epoch():
            now[0] += seconds
        limits.append(watchdog.limit())
    assert limits == [1000.0, 100.0, 300.0, 300.0]
    assert (tmp_path / STACK).exists()
    watchdog.close()
    assert not list(tmp_path.iterdir())


def test_none_is_never_and_an_empty_file_tells_nothing(tmp_path: Path) -> None:
    never = Watchdog(None, tmp_path)
    with never.epoch():
        pass
    assert never.limit() is None and not list(tmp_path.iterdir())
    (tmp_path / STACK).write_text("")
    assert told(tmp_path) is None
    hang.forget(tmp_path)
    assert not list(tmp_path.iterdir())
