"""Augmentation of uint8 batches on the device they live on, driven by uniforms that the caller draws.

Every image draws its own operations and parameters, and none depends on the batch it falls into.
Shapes: ``N`` images, ``H`` rows, ``W`` columns.
"""

from __future__ import annotations

from collections.abc import Callable

from trainables.augmentation import policies
from trainables.augmentation.geometry import center_crop
from trainables.augmentation.pixels import mixup, normalize
from trainables.augmentation.policies import Policy

__all__ = ["POLICIES", "Policy", "build", "center_crop", "mixup", "normalize"]

# The catalogue. A new policy is a function of (size, n, m, cutout) and a line here.
POLICIES: dict[str, Callable[..., Policy]] = {
    "none": policies.none,
    "sim": policies.sim,
    "rand": policies.rand,
    "auto": policies.auto,
    # Mixing is done on normalised batches, whose images come from the same geometric policy.
    "mixup": policies.sim,
}


def build(policy: str, *, size: int, n: int = 2, m: int = 10, cutout: int | None = None) -> Policy:
    """Build a policy for one size of image.

    Args:
        policy: name in ``POLICIES``.
        size: side of the output in pixels; larger images are cropped to it.
        n: operations of RandAugment.
        m: magnitude bin of RandAugment, of 31.
        cutout: Cutout in pixels; None for what the policy says, 0 for off.

    Raises:
        ValueError: the name is unknown or a number is out of range.

    """
    if policy not in POLICIES:
        raise ValueError(f"augmentation policy {policy!r} does not exist; choose one of {', '.join(POLICIES)}")
    if size < 1:
        raise ValueError(f"size must be a positive number of pixels, not {size}")
    return POLICIES[policy](size=size, n=n, m=m, cutout=cutout)
