"""Looking at a model: logits of all experts over the evaluation images, metrics, and what a final cell keeps.

Legend: ``K`` experts, ``N`` evaluation images, ``C`` classes, ``D`` features.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import augmentation, draws, shifted_test, trained
from trainables.augmentation.geometry import center_crop
from trainables.augmentation.pixels import normalize
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.data.source import Part
from trainables.files import Location, write_atomic
from trainables.methods.base import AnyMethod, Images, Prediction
from trainables.metrics import evaluation_metrics, mean_pairwise_kl, per_class_mean
from trainables.models.network import Network
from trainables.parallel import Parallel
from trainables.precision import dtype_of

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
    network: Network,
    method: AnyMethod,
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

    def of(index: Tensor, copy: int | None = None) -> list[Prediction]:
        return parallel.gather(
            predict(network, method, data, config, device, parallel.shard(index), copy=copy).prediction
        )

    parts, *copies = of(torch.arange(len(labels))), of(sample, 0), of(sample, 1)
    if not parallel.is_rank_zero:
        return Evaluation({}, {}, torch.empty(0), None, torch.empty(0))
    logits = torch.cat([part.logits for part in parts], 1)
    scalars, per_class = evaluation_metrics(logits, labels, torch.from_numpy(data.class_counts))
    for name in parts[0].per_image:
        scalars[name] = float(torch.cat([part.per_image[name] for part in parts]).double().mean())
    two = torch.stack([torch.cat([part.logits for part in copy], 1) for copy in copies])  # [2, K, N', C]
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


@dataclass(frozen=True)
class Predicted:
    """What a trial makes of some images, float32 on the CPU."""

    prediction: Prediction  # logits [K', N, C]
    features: Tensor  # [K, N, D]


@torch.no_grad()
def predict(
    network: Network,
    method: AnyMethod,
    data: TrialData,
    config: TrialConfig,
    device: torch.device,
    index: Tensor,
    *,
    copy: int | None = None,
) -> Predicted:
    """Predictions and features of the evaluation images ``index``.

    ``copy`` = 0, 1, … looks at that augmented copy instead of the centre crop.
    """
    network.eval()
    method.eval()
    parts: list[Prediction] = []
    features = []
    for inputs in _inputs(data.evaluation, data, config, device, index, copy):
        outputs = method.forward(network, inputs)
        prediction = method.predict(outputs)
        extra = {name: values.float().cpu() for name, values in prediction.per_image.items()}
        parts.append(Prediction(prediction.logits.float().cpu(), extra))
        features.append(outputs.features.float().cpu())
    per_image = {name: torch.cat([part.per_image[name] for part in parts]) for name in parts[0].per_image}
    return Predicted(Prediction(torch.cat([part.logits for part in parts], 1), per_image), torch.cat(features, 1))


def images_of(part: Part, data: TrialData, config: TrialConfig, device: torch.device) -> Iterator[Images]:
    """All images of a part as evaluation sees them, with their labels."""
    labels = torch.from_numpy(part.labels).to(device)
    every = torch.arange(len(labels))
    for index, inputs in zip(every.split(BATCH), _inputs(part, data, config, device, every, None), strict=True):
        yield Images(inputs, labels[index])


def _inputs(
    part: Part, data: TrialData, config: TrialConfig, device: torch.device, index: Tensor, copy: int | None
) -> Iterator[Tensor]:
    images: Any = part.images  # may lie in read-only shared memory: batches are copied out of it
    size = config.data.image_size or images.shape[-1]
    a = config.augmentation
    policy = augmentation.build(a.policies[(copy or 0) % a.copies], a, size=size)
    for numbers in index.split(BATCH):
        pixels = torch.from_numpy(np.asarray(images[numbers.numpy()])).to(device)
        if copy is None:
            pixels = center_crop(pixels, size)
        else:
            key = (config.seed, draws.STREAMS["evaluate"], numbers.to(device), copy)
            pixels = policy(pixels, draws.uniforms(key, policy.draws, device=device))
        inputs = normalize(pixels, data.mean, data.std, dtype=dtype_of(config))
        yield inputs.contiguous(memory_format=torch.channels_last)


def write_final(
    folder: Location,
    network: Network,
    method: AnyMethod,
    data: TrialData,
    config: TrialConfig,
    device: torch.device,
    evaluation: Evaluation,
) -> None:
    """``weights.pt`` and ``final.npz``, atomically.

    ``final.npz``: labels ``[N]``; logits float16 ``[K, N, C]`` or, above 2·10⁷ values, the five largest (``top5_logits``,
    ``top5_classes`` ``[K, N, 5]``); ``kl_experts`` (K > 1) and ``kl_copies``, means per class ``[C]``; ``features`` float16
    ``[K, ≤2000, D]`` of the images ``feature_index``; ``class_counts`` ``[C]``; ``shifted_single`` and ``shifted_ensemble``,
    the accuracies ``[2, S]`` of ``shifted_test``.
    """
    labels = torch.from_numpy(data.evaluation.labels)
    classes = len(data.class_counts)
    chosen = _spread(len(labels), FEATURE_IMAGES)
    features = predict(network, method, data, config, device, chosen).features
    arrays: dict[str, Any] = {
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
    shifted = shifted_test.accuracies(evaluation.logits, labels, torch.from_numpy(data.class_counts))
    arrays |= {f"shifted_{name}": values.numpy() for name, values in shifted.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(folder / "final.npz", lambda file: file.write(buffer.getvalue()))
    trained.save(folder / "weights.pt", network, method)


def _half(values: Tensor) -> np.ndarray:
    return values.clamp(-65504, 65504).to(torch.float16).numpy()


def _spread(n: int, most: int) -> Tensor:
    """At most ``most`` of ``range(n)``, evenly spaced."""
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most, dtype=torch.float64).long()
