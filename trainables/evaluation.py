"""Looking at a model: logits of all experts over the evaluation images, metrics, and what a final cell keeps.

Legend: ``K`` experts, ``N`` evaluation images, ``C`` classes, ``D`` features.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables import augmentation, checkpoint, draws
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.files import Location, write_atomic
from trainables.metrics import evaluation_metrics, mean_pairwise_kl, per_class_mean
from trainables.models import Experts
from trainables.parallel import Parallel
from trainables.precision import autocast, dtype_of

BATCH = 512
FEATURE_IMAGES = 2000
COPY_IMAGES = 2000  # images for the KL between copies in mid-training; at the end it is taken over all
FULL_LOGITS = 20_000_000  # values; above it, final.npz keeps the five largest


@dataclass(frozen=True)
class Evaluation:
    """Scalars by name (``test/…``), per-class accuracies ``[C]`` and what they were made from."""

    scalars: dict[str, float]
    per_class: dict[str, list[float | None]]
    logits: Tensor  # [K, N, C]
    kl_experts: Tensor | None  # [N]; None when K = 1
    kl_copies: Tensor  # [N']


def evaluate(
    model: Experts,
    data: TrialData,
    config: TrialConfig,
    device: torch.device,
    parallel: Parallel | None = None,
    *,
    full: bool,
) -> Evaluation:
    """Evaluate on ``data.evaluation``; ``full`` takes the KL between copies over all images instead of a sample.

    Every image is looked at by one worker; what comes of it is on rank 0, and empty on others.
    """
    parallel = parallel or Parallel()
    labels = torch.from_numpy(data.evaluation.labels)
    sample = torch.arange(len(labels)) if full else _spread(len(labels), COPY_IMAGES)

    def look(index: Tensor, copy: int | None = None) -> list[Tensor]:
        return parallel.gather(predict(model, data, config, device, parallel.shard(index), copy=copy)[0])

    parts, *copies = look(torch.arange(len(labels))), look(sample, 0), look(sample, 1)
    if not parallel.leads:
        return Evaluation({}, {}, torch.empty(0), None, torch.empty(0))
    logits = torch.cat(parts, 1)
    scalars, per_class = evaluation_metrics(logits, labels, torch.from_numpy(data.class_counts))
    two = torch.stack([torch.cat(copy, 1) for copy in copies])  # [2, K, N', C]
    kl_copies = mean_pairwise_kl(two.flatten(1, 2)).unflatten(0, two.shape[1:3]).mean(0)
    kl_experts = mean_pairwise_kl(logits) if len(logits) > 1 else None
    scalars["kl_copies"] = float(kl_copies.mean())
    return Evaluation(
        scalars={f"{data.split}/{name}": value for name, value in scalars.items()},
        per_class={
            f"{data.split}/{name}": [None if math.isnan(x) else x for x in values.tolist()]
            for name, values in per_class.items()
        },
        logits=logits,
        kl_experts=kl_experts,
        kl_copies=kl_copies,
    )


@torch.no_grad()
def predict(
    model: Experts,
    data: TrialData,
    config: TrialConfig,
    device: torch.device,
    index: Tensor,
    *,
    copy: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits ``[K, N, C]`` and features ``[K, N, D]`` of the images ``index``, float32 on the CPU.

    ``copy`` = 0, 1, … looks at that augmented copy instead of the centre crop.
    """
    model.eval()
    images = data.evaluation.images  # may lie in read-only shared memory: batches are copied out of it
    size = config.data.image_size or images.shape[-1]
    a = config.augmentation
    policy = augmentation.build(a.policy, size=size, n=a.n, m=a.m, cutout=a.cutout)
    logits, features = [], []
    for part in index.split(BATCH):
        pixels = torch.from_numpy(np.asarray(images[part.numpy()])).to(device)
        if copy is None:
            pixels = augmentation.center_crop(pixels, size)
        else:
            key = (config.seed, draws.STREAMS["evaluate"], part.to(device), copy)
            pixels = policy(pixels, draws.uniforms(key, policy.draws, device=device))
        inputs = augmentation.normalize(pixels, data.mean, data.std, dtype=dtype_of(config))
        with autocast(config, device):
            z, f = model(inputs.contiguous(memory_format=torch.channels_last))
        logits.append(z.float().cpu())
        features.append(f.float().cpu())
    return torch.cat(logits, 1), torch.cat(features, 1)


def write_final(
    folder: Location, model: Experts, data: TrialData, config: TrialConfig, device: torch.device, evaluation: Evaluation
) -> None:
    """``weights.pt`` and ``final.npz``, atomically.

    ``final.npz``: labels ``[N]``; logits float16 ``[K, N, C]`` or, above 2·10⁷ values, the five largest (``top5_logits``,
    ``top5_classes`` ``[K, N, 5]``); ``kl_experts`` (K > 1) and ``kl_copies``, means per class ``[C]``; ``features`` float16
    ``[K, ≤2000, D]`` of the images ``feature_index``; ``class_counts`` ``[C]``.
    """
    labels = torch.from_numpy(data.evaluation.labels)
    classes = len(data.class_counts)
    chosen = _spread(len(labels), FEATURE_IMAGES)
    _, features = predict(model, data, config, device, chosen)
    arrays = {
        "labels": data.evaluation.labels.astype(np.int32),
        "class_counts": data.class_counts,
        "feature_index": chosen.numpy(),
        "features": _half(features),
        "kl_copies": per_class_mean(evaluation.kl_copies, labels, classes).numpy(),
    }
    if evaluation.kl_experts is not None:
        arrays["kl_experts"] = per_class_mean(evaluation.kl_experts, labels, classes).numpy()
    if evaluation.logits.numel() <= FULL_LOGITS:
        arrays["logits"] = _half(evaluation.logits)
    else:
        top = evaluation.logits.topk(min(5, classes), dim=-1)
        arrays["top5_logits"] = _half(top.values)
        arrays["top5_classes"] = top.indices.to(torch.int32).numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(folder / "final.npz", lambda file: file.write(buffer.getvalue()))
    checkpoint.save(folder / "weights.pt", {"model": model.state_dict()})


def _half(values: Tensor) -> np.ndarray:  # type: ignore[type-arg]
    return values.clamp(-65504, 65504).to(torch.float16).numpy()


def _spread(n: int, most: int) -> Tensor:
    """At most ``most`` of ``range(n)``, evenly spaced."""
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most, dtype=torch.float64).long()
