"""Whether an operation may ask how many images it is for.

On a CPU a batch is sorted by what its images have drawn, and each operation done to those that drew it. A GPU's host would have
to wait for the numbers: there, and where a graph is traced, every operation is done to all images, and each image takes the one
that it drew. Both give the same pixels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import torch
from torch import Tensor


def must_not_wait(images: Tensor) -> bool:
    """Must no shape and no branch depend on what was drawn?"""
    return images.device.type != "cpu" or torch.compiler.is_compiling()


@lru_cache(maxsize=64)
def _constant(values: Hashable, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=device)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # in a graph, too
def constant(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers, in nested tuples, as a tensor that is sent to the device once; not to be changed."""
    return _constant(values, dtype, device)
