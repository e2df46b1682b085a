"""Counter-based random draws: integer hash arithmetic over (seed, epoch, image, occurrence, copy, draw).

A draw depends on what it is for and on nothing else: not on the batch it falls into, the worker that makes it, the
device, or the draws made before. Resuming, sharding and regrouping therefore change no draw, and there is no generator
state to save.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def _mix(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3 on int64 values in [0, 2^32); a product keeps its low 32 bits on overflow."""
    x = x ^ (x >> 16)
    x = (x * 0x85EBCA6B) & _MASK
    x = x ^ (x >> 13)
    x = (x * 0xC2B2AE35) & _MASK
    return x ^ (x >> 16)


def hash32(*parts: int | Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Hash integers, which broadcast against each other, into int64 values uniform on [0, 2^32)."""
    h = torch.full((), 0x9E3779B9, dtype=torch.int64, device=device)
    for part in parts:
        part = torch.as_tensor(part, dtype=torch.int64, device=device)
        h = _mix((_mix(part & _MASK) + h * 0x9E3779B1 + 0x7F4A7C15) & _MASK)
    return h


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
    return int(hash32(*parts).item())
