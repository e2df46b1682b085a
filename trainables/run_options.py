"""What goes into ``training.train`` beside the configuration and the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainables.keeping import Keeping
from trainables.parallel import Parallel


@dataclass(frozen=True)
class RunOptions(Keeping):
    """What is kept, and on what it runs: nothing that changes a number."""

    device: torch.device = torch.device("cpu")
    parallel: Parallel = Parallel()  # this process among the workers of the trial
