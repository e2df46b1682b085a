"""Augmentation of uint8 batches on the device they live on, driven by uniforms that the caller draws.

Every image draws its own operations and parameters, and none depends on the batch it falls into. ``POLICIES`` is the
catalogue; it is torch-free, since configurations are checked against it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables import catalogue

if TYPE_CHECKING:
    from trainables.augmentation.options import AugmentationConfig
    from trainables.augmentation.policies import Chain

# name -> dotted path of (size, AugmentationConfig) -> Chain
POLICIES: dict[str, str] = {
    "none": "trainables.augmentation.policies.none",
    "sim": "trainables.augmentation.policies.sim",
    "rand": "trainables.augmentation.policies.rand",
    "auto": "trainables.augmentation.policies.auto",
}


def build(policy: str, options: AugmentationConfig, *, size: int) -> Chain:
    """Build a policy for one size of image: ``size`` is the side of the output in pixels, larger images are cropped to it.

    Of ``options`` it takes what the policy leaves open: not its ``policy``, copies or mixing.

    Raises:
        ValueError: the name is unknown or a number is out of range.

    """
    if policy not in POLICIES:
        raise ValueError(f"augmentation policy {policy!r} does not exist; choose one of {', '.join(POLICIES)}")
    if size < 1:
        raise ValueError(f"size must be a positive number of pixels, not {size}")
    made: Chain = catalogue.load(POLICIES[policy])(size, options)
    return made
