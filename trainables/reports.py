"""What comes out of whatever trains a trial: ``training.train``, ``synthetic.train``, ``custom.train``.

Apart from the epoch loop and without torch, so that who trains nothing of it (a function of the user's own) waits for neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Report:
    """What one epoch gave. ``metrics`` are scalars by name, ``train/…`` and ``val/…`` or ``test/…``."""

    epoch: int  # finished epochs, from 1
    metrics: dict[str, float]
    per_class: dict[str, list[float | None]] = field(default_factory=dict)
    done: bool = False
    diverged: bool = False
    notice: str = ""  # what whoever watches should be told
