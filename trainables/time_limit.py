"""A batch system ends its jobs at a known time: checkpoints come often before that. Needs no torch."""

from __future__ import annotations

import os
import time

ENDS_AT = "LTSEARCH_ENDS_AT"  # seconds since the epoch, set by whoever starts Ray in such a job
BEFORE_SECONDS, EVERY_SECONDS = 60.0, 10.0  # from so long before the end on, a checkpoint so often


def ends_at() -> float | None:
    """When this process will be told to end, in seconds since the epoch; None: nobody knows."""
    text = os.environ.get(ENDS_AT)
    return float(text) if text else None


def checkpoint_after(seconds: float, end: float | None) -> float:
    """Seconds after which the next checkpoint is due: fewer when the end is near, so that little is lost."""
    near = end is not None and time.time() > end - BEFORE_SECONDS
    return min(seconds, EVERY_SECONDS) if near else seconds
