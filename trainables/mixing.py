"""Mixing images of a batch: mixup (Zhang et al., ICLR 2018) and CutMix (Yun et al., ICCV 2019), on top of any policy.

One partner, one coefficient and, for CutMix, one box for all copies of an image. Legend: ``B`` images of a batch over all
workers, ``T`` copies, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.special import betaincinv
from torch import Tensor

from trainables import draws
from trainables.config import TrialConfig


class Mix(NamedTuple):
    """What each image of a batch is mixed with."""

    partner: Tensor  # int64 [B], a position in the batch
    coefficient: Tensor  # float64 [B] in [0, 1], the weight of the image itself
    centre: Tensor  # float32 [B, 2] in [0, 1), of the box, for CutMix


def draw(config: TrialConfig, epoch: int, image: Tensor, occurrence: Tensor) -> Mix:
    """Partners from a permutation of the batch, coefficients ~ Beta(α, α), boxes anywhere.

    ``image`` and ``occurrence``, int64 ``[B]``, lie on the CPU, and so does what is drawn: only there Beta's quantiles are.
    """
    key = (config.seed, draws.STREAMS["mixup"], epoch)
    partner = torch.argsort(draws.hash32(*key, 0, image, occurrence), stable=True)
    quantile = draws.uniform(*key, 1, image, occurrence).double().numpy()
    alpha = config.augmentation.mix_alpha
    coefficient = torch.from_numpy(betaincinv(alpha, alpha, quantile))
    return Mix(partner, coefficient, draws.uniforms((*key, 2, image, occurrence), 2))


def boxes(mix: Mix, height: int, width: int) -> tuple[Tensor, Tensor]:
    """CutMix's boxes: bool ``[B, H, W]``, true inside, and the coefficients ``[B]`` that their areas, cut at the border, give.

    The box has ``√(1 - λ)`` of each side.
    """
    side = (1 - mix.coefficient).clamp_min(0).sqrt()

    def inside(centre: Tensor, length: int) -> Tensor:
        middle = (centre.double() * length).floor()
        half = torch.div((side * length).floor(), 2, rounding_mode="floor")
        low, high = (middle - half).clamp(0, length), (middle + half).clamp(0, length)
        at = torch.arange(length, device=centre.device)
        return (at >= low[:, None]) & (at < high[:, None])

    box = inside(mix.centre[:, 0], height)[:, :, None] & inside(mix.centre[:, 1], width)[:, None, :]
    return box, 1 - box.double().mean((1, 2))


def apply(kind: str, inputs: Tensor, partners: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """Mixed images and the weight of their own labels.

    Args:
        kind: ``mixup`` or ``cutmix``.
        inputs: float ``[T, b, 3, H, W]``.
        partners: as ``inputs``, the partner of each.
        mix: of these b images.

    Returns:
        ``[T, b, 3, H, W]`` and ``[b]``, in the type of the inputs.
    """
    if kind == "mixup":
        share = mix.coefficient.to(inputs.dtype)
        weight = share[:, None, None, None]
        return inputs * weight + partners * (1 - weight), share
    box, share = boxes(mix, *inputs.shape[-2:])
    return torch.where(box[:, None], partners, inputs), share.to(inputs.dtype)
