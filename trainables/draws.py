"""Counter-based random draws: integer hash arithmetic over (seed, epoch, image, occurrence, copy, draw).

A draw depends on what it is for and on nothing else: not on the batch it falls into, the worker that makes it, the
device, or the draws made before. Resuming, sharding and regrouping therefore change no draw, and there is no generator
state to save.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF

# One stream per use, so that two uses of the same (seed, epoch, image) never see the same numbers.
STREAMS = {
    "order": 1,
    "augment": 2,
    "mixup": 3,
    "hard_random": 4,
    "init": 5,
    "evaluate": 6,
    "sample": 7,
    "method": 8,
}


def _mix(x: Any) -> Any:
    """The 32-bit finaliser of MurmurHash3 on numbers in [0, 2^32); a product of int64 keeps its low 32 bits on overflow."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


def _hash(parts: Sequence[Any]) -> Any:
    """Of numbers a number: to send one to a GPU, its host would wait."""
    h: Any = 0x9E3779B9
    for part in parts:
        h = _mix((_mix(part & _MASK) + (h * 0x9E3779B1 & _MASK) + 0x7F4A7C15) & _MASK)
    return h


def hash32(*parts: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Hash integers, which broadcast against each other, into int64 values uniform on [0, 2^32)."""
    h = _hash([part.to(device, torch.int64) if isinstance(part, Tensor) else int(part) for part in parts])
    return h if isinstance(h, Tensor) else torch.full((), h, dtype=torch.int64, device=device)


def uniform(*parts: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Float32 values uniform on [0, 1), of 24 bits each, exactly the same on every device."""
    return (hash32(*parts, device=device) >> 8).to(torch.float32) * (1.0 / (1 << 24))


def uniforms(key: Sequence[int | Tensor], count: int, device: torch.device | str = "cpu") -> Tensor:
    """``count`` draws for every element of the broadcast ``key``: shape ``[*key, count]``."""
    shared = hash32(*key, device=device)
    return uniform(shared[..., None], torch.arange(count, device=device), device=device)


def permutation(*parts: int | Tensor, n: int) -> Tensor:
    """A permutation of ``range(n)``, int64 ``[n]`` on the CPU; ties of the hash (probability n²/2³³) keep their order."""
    return torch.argsort(hash32(*parts, torch.arange(n)), stable=True)


def integer(*parts: int) -> int:
    """One Python integer in [0, 2^32)."""
    return int(_hash(parts))
