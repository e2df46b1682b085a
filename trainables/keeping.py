"""Where and how often a run writes what it keeps: what every kind of training needs, one that trains nothing included.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from trainables.files import Location
from trainables.time_limit import checkpoint_after, ends_at


@dataclass(frozen=True)
class Keeping:
    """Nothing that changes a number."""

    folder: Location | None = None  # checkpoint, weights and final.npz; None: nothing is kept
    checkpoint_seconds: float = 30.0
    keep_final: bool = False  # write weights.pt and final.npz at the end
    before_checkpoint: Callable[[], None] | None = None  # for what must be on disk before the checkpoint is
    required: tuple[Location, ...] = ()  # weights.pt of what `method.requires` names, in its order
    ends_at: float | None = field(default_factory=ends_at)

    def checkpoint_after(self, least: float = 0.0) -> float:
        """Seconds after which the next checkpoint is due: ``least`` at least, unless the end is near."""
        return checkpoint_after(max(self.checkpoint_seconds, least), self.ends_at)
