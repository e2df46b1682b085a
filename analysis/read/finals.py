"""The arrays that a finished run keeps (``final.npz``), and what reports compute from its logits.

Legend: ``K`` experts, ``N`` test images, ``C`` classes, ``D`` features, ``S`` shifted test distributions.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Arrays = Mapping[str, NDArray[Any]]
_CHUNK = 4096  # images that are computed on at once


@dataclass
class Finals:
    """A run's arrays, and what follows from its logits; remembers what was read, for an export to keep that and no more.

    Kept: ``labels`` ``[N]``, ``class_counts`` ``[C]``, ``logits`` float16 ``[K, N, C]`` or, for large sets, ``top5_logits`` and
    ``top5_classes`` ``[K, N, 5]``; ``kl_experts`` ``[C]`` (only for K > 1) and ``kl_copies`` ``[C]``, means per class in nats;
    ``features`` float16 ``[K, ≤2000, D]`` of the images ``feature_index``; ``shifted_single`` and ``shifted_ensemble``
    ``[2, S]``, of ``trainables.shifted_test``. What is computed has a name of the same kind, and an export has it under that.
    """

    arrays: Arrays
    read: dict[str, NDArray[Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, content: bytes) -> Finals:
        """From a file's content."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return cls({name: arrays[name] for name in arrays.files})

    def __contains__(self, name: object) -> bool:
        """Was it kept?"""
        return name in self.arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        """An array that was kept; raises ``KeyError``."""
        if name not in self.read:
            self.read[name] = np.asarray(self.arrays[name])
        return self.read[name]

    def predicted(self, predict: str) -> NDArray[Any] | None:
        """Predicted classes ``[N]`` of expert 0 or of the ensemble; None if they were not kept (an ensemble of top fives)."""

        def compute() -> NDArray[Any] | None:
            if "logits" in self.arrays:
                logits = np.asarray(self.arrays["logits"])  # [K, N, C]
                scores: NDArray[Any] = logits.astype(np.float64).mean(0) if predict == "ensemble" else logits[0]
                return np.asarray(scores.argmax(-1), dtype=np.int32)
            if predict == "single" and "top5_classes" in self.arrays:
                return np.asarray(self.arrays["top5_classes"])[0, :, 0].astype(np.int32)
            return None

        return self._computed(f"predicted_{predict}", compute)

    def features(self) -> NDArray[Any] | None:
        """Features of expert 0, float16 ``[≤2000, D]``, of the images ``feature_index``; None if they were not kept."""

        def compute() -> NDArray[Any] | None:
            return np.asarray(self.arrays["features"])[0] if "features" in self.arrays else None

        return self._computed("features_0", compute)

    def hardest_negative(self) -> NDArray[Any] | None:
        """The largest softmax probability of a class that is not the label, float32 ``[K, N]``; None without all logits."""

        def compute() -> NDArray[Any] | None:
            if "logits" not in self.arrays or np.asarray(self.arrays["logits"]).shape[-1] < 2:
                return None
            labels = np.asarray(self.arrays["labels"])
            found = [_strongest_wrong(expert, labels) for expert in np.asarray(self.arrays["logits"])]
            return np.stack(found).astype(np.float32)

        return self._computed("hardest_negative", compute)

    def disagreement(self) -> Disagreement | None:
        """Of the images of the smallest third of the classes on which the first two experts differ, where they do most.

        By the mean of both directions of the Kullback-Leibler divergence between their predictions. None with one expert,
        without all logits, or if they never differ.
        """

        def compute() -> NDArray[Any] | None:
            if "logits" not in self.arrays or len(self.arrays["logits"]) < 2:
                return None
            sizes, labels = np.asarray(self.arrays["class_counts"]), np.asarray(self.arrays["labels"])
            smallest = np.argsort(-sizes, kind="stable")[-max(1, len(sizes) // 3) :]
            images = np.flatnonzero(np.isin(labels, smallest))
            log_p = log_softmax(
                np.asarray(self.arrays["logits"])[:2][:, images].astype(np.float64), axis=-1
            )  # [2, n, C]
            guessed = log_p.argmax(-1)
            differ = guessed[0] != guessed[1]
            if not differ.any():
                return None
            kl = ((np.exp(log_p[0]) - np.exp(log_p[1])) * (log_p[0] - log_p[1])).sum(-1) / 2  # [n]
            best = int(np.where(differ, kl, -1.0).argmax())
            return np.concatenate([[images[best], differ.sum(), kl[best]], log_p[:, best].ravel()])

        found = self._computed("disagreement", compute)
        if found is None:
            return None
        return Disagreement(int(found[0]), int(found[1]), float(found[2]), found[3:].reshape(2, -1))

    def _computed(self, name: str, compute: Callable[[], NDArray[Any] | None]) -> NDArray[Any] | None:
        if name in self.arrays:
            return self[name]
        if name not in self.read:
            found = compute()
            if found is None:
                return None
            self.read[name] = found
        return self.read[name]


@dataclass(frozen=True)
class Disagreement:
    """Image ``image`` of the test set, chosen from ``among``: divergence in nats, log-probabilities ``[2, C]``."""

    image: int
    among: int
    kl: float
    log_p: NDArray[Any]


def _strongest_wrong(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    """Of ``[N, C]`` logits and labels ``[N]``."""
    parts = []
    for start in range(0, len(labels), _CHUNK):
        p = softmax(logits[start : start + _CHUNK].astype(np.float64), axis=-1)
        p[np.arange(len(p)), labels[start : start + _CHUNK]] = -1.0
        parts.append(p.max(-1))
    return np.concatenate(parts)
