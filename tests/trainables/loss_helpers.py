"""Small logits, and methods on them, for the tests that take a loss by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.special import log_softmax

from tests.trainables.helpers import make_batch
from trainables.config import TrialConfig
from trainables.methods import method_class

K, T, B, C = 3, 2, 4, 5
COUNTS = [40, 25, 12, 6, 1]
N = np.array(COUNTS, float)
LABELS = [0, 4, 2, 4]


def logits(seed: int = 0, k: int = K, t: int = T) -> torch.Tensor:
    return 3 * torch.randn(k, t, B, C, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def method(
    name: str, over: dict[str, Any] | None = None, epochs: int = 10, k: int = K, t: int = T, **options: Any
) -> Any:
    tree = {
        "model": {"experts": k, **(over or {})},
        "augmentation": {"copies": t},
        "training": {"precision": "fp64", "epochs": epochs},
        "method": {"name": name, **options},
    }
    return method_class(name)(TrialConfig.model_validate(tree), torch.tensor(COUNTS)).double()


def loss_of(made: Any, z: torch.Tensor, epoch: int = 0, **fields: Any) -> float:
    return float(made.losses(replace(make_batch(z, LABELS, epoch=epoch), **fields))["loss"])


def mean_over(sample: Any, z: torch.Tensor, labels: list[int] = LABELS) -> float:
    """Sum over experts of the mean over copies and images of ``sample(z, y)``."""
    a = z.numpy()
    return sum(
        np.mean([sample(a[k, t, b], labels[b]) for t in range(a.shape[1]) for b in range(a.shape[2])])
        for k in range(a.shape[0])
    )


def ce(z: np.ndarray, y: int) -> float:
    return -float(log_softmax(z)[y])


def effective(beta: float) -> np.ndarray:
    w = np.array([(1 - beta) / (1 - beta**n) for n in N])
    return w * C / w.sum()


def kl(a: np.ndarray, b: np.ndarray) -> float:
    """Of two log-probability vectors."""
    return float(np.sum(np.exp(a) * (a - b)))
