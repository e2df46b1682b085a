"""What goes in and out of whatever trains a trial: ``training.train``, ``synthetic.train``, ``custom.train``.

Apart from the epoch loop, so that who trains nothing of it (a function of the user's own) does not wait for its imports.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from trainables.files import Location
from trainables.parallel import Parallel
from trainables.time_limit import checkpoint_after, ends_at


@dataclass(frozen=True)
class Report:
    """What one epoch gave. ``metrics`` are scalars by name, ``train/…`` and ``val/…`` or ``test/…``."""

    epoch: int  # finished epochs, from 1
    metrics: dict[str, float]
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    done: bool = False
    diverged: bool = False
    notice: str = ""  # what whoever watches should be told


@dataclass(frozen=True)
class RunOptions:
    """Where and how often things are written, and on what it runs: nothing that changes a number."""

    device: torch.device = torch.device("cpu")
    folder: Location | None = None  # checkpoint, weights and final.npz; None: nothing is kept
    checkpoint_seconds: float = 30.0
    keep_final: bool = False  # write weights.pt and final.npz at the end
    before_checkpoint: Callable[[], None] | None = None  # for what must be on disk before the checkpoint is
    parallel: Parallel = Parallel()  # this process among the workers of the trial
    required: tuple[Location, ...] = ()  # weights.pt of what `method.requires` names, in its order
    ends_at: float | None = field(default_factory=ends_at)

    def checkpoint_after(self, least: float = 0.0) -> float:
        """Seconds after which the next checkpoint is due: ``least`` at least, unless the end is near."""
        return checkpoint_after(max(self.checkpoint_seconds, least), self.ends_at)
