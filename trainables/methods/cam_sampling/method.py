"""CAM-based sampling.

Legend: ``N`` training images, ``n`` images of a batch, ``H``, ``W`` pixels, ``h``, ``w`` positions of the last feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables import draws
from trainables.losses import single
from trainables.methods.base import Batch, Images
from trainables.methods.cam_sampling.options import CAMSamplingOptions
from trainables.methods.single_loss import SingleLoss
from trainables.models.network import Network


class CAMSampling(SingleLoss[CAMSamplingOptions]):
    """Cross-entropy on old and new images."""

    def survey(self, network: Network, training: Callable[[], Iterator[Images]]) -> None:
        """The foreground of every training image, bool ``[N, H, W]``, from stage 1's expert 0."""
        parts = []
        with torch.no_grad():
            for images in training():
                maps = activation_map(network, images)
                parts.append(maps > self.options.threshold * maps.mean((1, 2), keepdim=True))
        self.foreground = torch.cat(parts)

    def pixels(self, images: Tensor, labels: Tensor, key: tuple[int | Tensor, ...]) -> Tensor:
        """Make some of uint8 images ``[n, 3, H, W]`` new ones: of class j, ``(n_max + n_min - n_j)/(n_max + n_min)``."""
        u = draws.uniforms((*key, -1), 5, device=images.device)
        n = self.class_counts.to(u.dtype)
        share = 1 - n / (n.max() + n.min())
        image = key[3]
        assert isinstance(image, Tensor)
        made = composed(images, self.foreground[image], u[:, 1:])
        return torch.where((u[:, 0] < share[labels])[:, None, None, None], made, images)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        return single.cross_entropy(z, labels)


def activation_map(network: Network, images: Images) -> Tensor:
    """``Σ_d w_{y,d} F_d`` (Zhou et al., CVPR 2016, eq. 2) of the true class, resized to the images: ``[N, H, W]``."""
    expert = network.branches[0]
    last = expert.branch[:-1](network.trunk(images.inputs))  # [N, D, h, w], before pooling
    weight = expert.classifier.get_parameter("weight")[images.labels].to(last.dtype)
    maps = torch.einsum("nd,ndhw->nhw", weight, last)
    size = images.inputs.shape[-2:]
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def composed(images: Tensor, foreground: Tensor, u: Tensor) -> Tensor:
    """New images: the foreground, changed, over the image. uint8 ``[n, 3, H, W]``, bool ``[n, H, W]``, uniforms ``[n, 4]``.

    One of three with the same probability: a turn by up to 45° and a scale of 0.8 to 1.2 about the foreground's centre, a move
    by up to a quarter of the image, a mirror image.
    """
    height, width = images.shape[-2:]
    kind = (u[:, 0] * 3).long().clamp_max(2)
    turn, move, mirror = kind == 0, kind == 1, kind == 2
    angle = torch.where(turn, (u[:, 1] * 2 - 1) * (math.pi / 4), torch.zeros_like(u[:, 1]))
    scale = torch.where(turn, 0.8 + 0.4 * u[:, 2], torch.ones_like(u[:, 2]))
    shift = torch.where(
        move[:, None], (u[:, 1:3] - 0.5), torch.zeros_like(u[:, 1:3])
    )  # in half sides: a quarter of a side
    flip = torch.where(mirror, -torch.ones_like(angle), torch.ones_like(angle))
    centre = _centre(foreground)  # [n, 2] (x, y) in [-1, 1]
    # Where each output pixel comes from: back by the shift, then turned and scaled back about the centre.
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack([torch.stack([cos * flip, sin], -1), torch.stack([-sin * flip, cos], -1)], 1)  # [n, 2, 2]
    about = torch.where(turn[:, None], centre, torch.zeros_like(centre))
    offset = about - torch.einsum("nij,nj->ni", matrix, about + shift)
    grid = F.affine_grid(
        torch.cat([matrix, offset[:, :, None]], 2), [len(images), 3, height, width], align_corners=False
    )
    four = torch.cat([images, foreground[:, None].to(images.dtype)], 1).float()
    moved = F.grid_sample(four, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.where(moved[:, 3:] > 0, moved[:, :3].to(images.dtype), images)


def _centre(foreground: Tensor) -> Tensor:
    height, width = foreground.shape[-2:]
    mass = foreground.float()
    total = mass.sum((1, 2)).clamp_min(1)
    x = ((torch.arange(width, device=mass.device) + 0.5) * 2 / width - 1) * mass.sum(1)
    y = ((torch.arange(height, device=mass.device) + 0.5) * 2 / height - 1) * mass.sum(2)
    return torch.stack([x.sum(1) / total, y.sum(1) / total], -1)
