"""A plain implementation of the paper, to measure against and to agree with: eager PyTorch, float32, NCHW.

It shares no code with ``trainables``: an own CIFAR ResNet-32, and the loss written as the formulas stand, with loops over
ordered pairs of experts and of copies. Formulation ``paper``, ``hard_set: own``, ``hard_select: top``, fixed λ.

Legend: ``K`` experts, ``T`` copies, ``B`` images, ``C`` classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions with an option-A shortcut."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.planes = planes
        self.changes = stride != 1 or inputs != planes

    def shortcut(self, x: Tensor) -> Tensor:
        if not self.changes:
            return x
        quarter = self.planes // 4
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter), "constant", 0)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out + self.shortcut(x)
        return F.relu(out)


class ResNet32(nn.Module):
    """Three stages of five blocks with 16, 32 and 64 channels, global average pooling, a linear classifier."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1)
        self.layer2 = self._layer(16, 32, 2)
        self.layer3 = self._layer(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    def _layer(self, inputs: int, planes: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(inputs, planes, stride), *(Block(planes, planes, 1) for _ in range(4)))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = F.avg_pool2d(out, out.size(3))
        logits: Tensor = self.linear(out.view(out.size(0), -1))
        return logits


def kl(scores_p: Tensor, scores_q: Tensor) -> Tensor:
    """``KL(p ‖ q)`` of two softmaxes, ``[B, …]`` to ``[B]``."""
    log_p, log_q = F.log_softmax(scores_p, dim=1), F.log_softmax(scores_q, dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def hard_set(z: Tensor, labels: Tensor, beta: float) -> Tensor:
    """Eq. 7: the target, then the ``floor(β·C + 0.5)`` other classes with the largest logits, int64 ``[B, S]``."""
    negatives = z.detach().clone()
    negatives[torch.arange(len(labels)), labels] = -math.inf
    hard = math.floor(beta * z.shape[1] + 0.5)
    return torch.cat([labels[:, None], negatives.topk(hard, dim=1).indices], dim=1)


def loss(z: Tensor, labels: Tensor, counts: Tensor, beta: float, lambda_intra: float, lambda_inter: float) -> Tensor:
    """Eq. 14 with NFL: raw logits ``[K, T, B, C]``, labels ``[B]``, images a class ``[C]``."""
    experts, copies = z.shape[:2]
    s = z + counts.to(z.dtype).log()
    psi = [[hard_set(z[k, t], labels, beta) for t in range(copies)] for k in range(experts)]

    bil = z.new_zeros(())
    for k in range(experts):
        for t in range(copies):
            bil = bil + F.cross_entropy(s[k, t], labels) / copies
            bil = bil - F.log_softmax(s[k, t].gather(1, psi[k][t]), dim=1)[:, 0].mean() / copies

    inter = z.new_zeros(())
    for t in range(copies):
        for k in range(experts):
            for q in range(experts):
                if q != k:
                    both = kl(s[k, t], s[q, t]) + kl(s[k, t].gather(1, psi[k][t]), s[q, t].gather(1, psi[k][t]))
                    inter = inter + both.mean() / copies

    intra = z.new_zeros(())
    for k in range(experts):
        for t in range(copies):
            for u in range(copies):
                if u != t:
                    both = kl(s[k, t], s[k, u]) + kl(s[k, t].gather(1, psi[k][t]), s[k, u].gather(1, psi[k][t]))
                    intra = intra + both.mean()

    inter = inter * 2 / (experts * (experts - 1)) if experts > 1 else inter
    intra = intra * 2 / (copies * (copies - 1)) if copies > 1 else intra
    return bil + lambda_intra * intra + lambda_inter * inter


class LiteralTrainer:
    """K networks, one optimiser, one step after another."""

    def __init__(self, experts: int, counts: Tensor, *, lr: float, beta: float = 0.3, weight: float = 0.6) -> None:
        self.networks = nn.ModuleList(ResNet32(len(counts)) for _ in range(experts))
        self.counts, self.beta, self.weight = counts, beta, weight
        self.optimizer = torch.optim.SGD(
            self.networks.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=2e-4
        )

    def copy_weights(self, experts: nn.Module) -> None:
        """Take over another implementation's parameters and buffers, which come in the same order."""
        theirs, own = list(experts.state_dict().values()), self.networks.state_dict()
        if [x.shape for x in theirs] != [x.shape for x in own.values()]:
            raise ValueError("the two networks do not have the same parameters in the same order")
        self.networks.load_state_dict(dict(zip(own, theirs, strict=True)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``[T·B, 3, H, W]``, copy by copy; labels ``[B]``."""
        batch = len(labels)
        logits = torch.stack([network(images) for network in self.networks])  # [K, T·B, C]
        logits = logits.view(len(self.networks), -1, batch, logits.shape[-1])
        return loss(logits, labels, self.counts, self.beta, self.weight, self.weight)

    def step(self, images: Tensor, labels: Tensor) -> float:
        self.networks.train()
        value = self.loss(images, labels)
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return value.item()
