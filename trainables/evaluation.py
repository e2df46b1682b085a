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

from trainables import augmentation, draws, metrics, shifted_test, trained
from trainables.augmentation.geometry import center_crop
from trainables.augmentation.pixels import normalize
from trainables.augmentation.policies import cut_copies
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.data.source import Part
from trainables.files import Location, write_atomic
from trainables.methods.base import AnyMethod, Images, Prediction
from trainables.metrics import per_class_mean
from trainables.models.network import Network
from trainables.parallel import Parallel
from trainables.precision import dtype_of

BATCH = 512
FEATURE_IMAGES = 2000
COPY_IMAGES = 2000  # images for the KL between copies in mid-training; at the end it is taken over all
FULL_LOGITS = 20_000_000  # values; above it, final.npz keeps the five largest


@dataclass(frozen=True)
class Evaluation:
    """Scalars by name (``test/…``), per-class accuracies ``[C]`` and what was found image by image."""

    scalars: dict[str, float]
    per_class: dict[str, list[float | None]]
    kept: dict[
        str, Tensor
    ]  # logits [K, N, C], or of large sets top5_logits and top5_classes [K, N, 5]; with `full` only
    kl_experts: Tensor | None  # [N]; None when K = 1
    kl_copies: Tensor  # [N']
    shifted: dict[str, Tensor]  # float64 [2, S] of `single` and `ensemble`; with `full` only


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
    """Evaluate on ``data.evaluation``; ``full`` takes the KL between copies over all images, and keeps more.

    Images are judged batch by batch, where they are predicted: what is held of all of them does not grow with the classes.
    Every image is looked at by one worker; what comes of it is on rank 0, and empty on others.
    """
    parallel = parallel or Parallel()
    labels, counts = torch.from_numpy(data.evaluation.labels), torch.from_numpy(data.class_counts)
    every = torch.arange(len(labels))
    sample = every if full else _spread(len(labels), COPY_IMAGES)
    stay = shifted_test.sizes(labels, counts)

    def look(index: Tensor, copy: int | None = None) -> Iterator[Predicted]:
        return predictions(network, method, data, config, device, parallel.shard(index), copy=copy)

    def judge(index: Tensor, seen: Predicted) -> dict[str, Tensor]:
        logits, here = seen.prediction.logits, labels[index].to(device)
        found = {f"image/{name}": values for name, values in seen.prediction.per_image.items()}
        found |= {f"metrics/{name}": values for name, values in metrics.judge(logits, here).items()}
        if not full:
            return found
        found |= {f"shifted/{name}": values for name, values in shifted_test.judge(logits, here, stay).items()}
        if len(logits) * len(labels) * logits.shape[-1] <= FULL_LOGITS:
            return found | {"kept/logits": logits.transpose(1, 2)}  # images last, as everywhere here
        top = logits.topk(min(5, logits.shape[-1]), dim=-1)
        tops = {"top5_logits": top.values, "top5_classes": top.indices.to(torch.int32)}
        return found | {f"kept/{name}": values.transpose(1, 2) for name, values in tops.items()}

    own = parallel.shard(every).split(BATCH)
    judged = _together([judge(index, seen) for index, seen in zip(own, look(every), strict=True)])
    two = zip(look(sample, 0), look(sample, 1), strict=True)
    copies = [{"kl": _between_copies(*(seen.prediction.logits for seen in pair))} for pair in two]
    parts = parallel.gather({name: values.cpu() for name, values in {**judged, **_together(copies)}.items()})
    if not parallel.is_rank_zero:
        return Evaluation({}, {}, {}, None, torch.empty(0), {})
    found = _together(parts)
    of = _by_room(found)
    scalars, per_class = metrics.evaluation_metrics(of["metrics"], labels, counts)
    scalars |= {name: float(values.double().mean()) for name, values in of.get("image", {}).items()}
    scalars["kl_copies"] = float(found["kl"].mean())
    return Evaluation(
        scalars={f"{data.split}/{name}": value for name, value in scalars.items()},
        per_class={
            f"{data.split}/{name}": [None if math.isnan(x) else x for x in values.tolist()]
            for name, values in per_class.items()
        },
        kept={name: values.transpose(1, 2) for name, values in of.get("kept", {}).items()},
        kl_experts=of["metrics"].get("kl_experts"),
        kl_copies=found["kl"],
        shifted=shifted_test.accuracies(of["shifted"], labels, stay) if full else {},
    )


def _between_copies(first: Tensor, second: Tensor) -> Tensor:
    """The KL between two copies of each image, mean over the experts: ``[b]`` of logits ``[K, b, C]``."""
    two = torch.stack([first, second])
    apart: Tensor = metrics.mean_pairwise_kl(two.flatten(1, 2)).unflatten(0, two.shape[1:3]).mean(0)
    return apart


def _together(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Values of some images after those of others; images are the last dimension."""
    filled = [part for part in parts if part]
    return {name: torch.cat([part[name] for part in filled], -1) for name in (filled[0] if filled else ())}


def _by_room(found: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    rooms: dict[str, dict[str, Tensor]] = {}
    for name, values in found.items():
        room, _, rest = name.partition("/")
        rooms.setdefault(room, {})[rest] = values
    return rooms


@dataclass(frozen=True)
class Predicted:
    """What a trial makes of some images, float32."""

    prediction: Prediction  # logits [K', b, C]
    features: Tensor  # [K, b, D]


@torch.no_grad()
def predictions(
    network: Network,
    method: AnyMethod,
    data: TrialData,
    config: TrialConfig,
    device: torch.device,
    index: Tensor,
    *,
    copy: int | None = None,
) -> Iterator[Predicted]:
    """Predictions and features of the evaluation images ``index``, batch by batch, on the device.

    ``copy`` = 0, 1, … looks at that augmented copy instead of the centre crop.
    """
    network.eval()
    method.eval()
    for inputs in _inputs(data.evaluation, data, config, device, index, copy):
        outputs = method.forward(network, inputs)
        prediction = method.predict(outputs)
        extra = {name: values.float() for name, values in prediction.per_image.items()}
        yield Predicted(Prediction(prediction.logits.float(), extra), outputs.features.float())


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
        key = (config.seed, draws.STREAMS["evaluate"], numbers.to(device), copy or 0)
        if copy is not None and config.data.whole:
            u = draws.uniforms(key, policy.draws, device=device)
            pixels = policy(cut_copies(images.pictures, numbers, [(policy, u)])[0].to(device), u, cut=True)
        else:
            pixels = torch.from_numpy(np.asarray(images[numbers.numpy()])).to(device)
            if copy is None:
                pixels = center_crop(pixels, size)
            else:
                pixels = policy(pixels, draws.uniforms(key, policy.draws, device=device))
        yield normalize(pixels, data.mean, data.std, dtype=dtype_of(config))


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
    seen = predictions(network, method, data, config, device, chosen)
    features = torch.cat([one.features.cpu() for one in seen], 1)
    arrays: dict[str, Any] = {
        "labels": data.evaluation.labels.astype(np.int32),
        "class_counts": data.class_counts,
        "feature_index": chosen.numpy(),
        "features": _half(features),
        "kl_copies": per_class_mean(evaluation.kl_copies, labels, classes).numpy(),
    }
    if evaluation.kl_experts is not None:
        arrays["kl_experts"] = per_class_mean(evaluation.kl_experts, labels, classes).numpy()
    for name, kept in evaluation.kept.items():
        arrays[name] = kept.numpy() if name == "top5_classes" else _half(kept)
    arrays |= {f"shifted_{name}": values.numpy() for name, values in evaluation.shifted.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(folder / "final.npz", lambda file: file.write(buffer.getvalue()))
    trained.save(folder / "weights.pt", network, method)


def _half(values: Tensor) -> np.ndarray:
    return values.clamp(-65504, 65504).to(torch.float16).numpy()


def _spread(n: int, most: int) -> Tensor:
    """At most ``most`` of ``range(n)``, evenly spaced."""
    return torch.arange(n) if n <= most else torch.linspace(0, n - 1, most, dtype=torch.float64).long()
