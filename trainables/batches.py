"""From a training set to batches: sampled, read, augmented and mixed, the same whatever the number of workers.

Legend: ``T`` augmented copies, ``B`` images of a batch over all workers, ``b`` of them on this worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables import augmentation, draws, mixing, sampling
from trainables.augmentation.pixels import normalize, normalize_by_table
from trainables.augmentation.policies import cut_copies
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.data.on_disk import Rows
from trainables.methods.base import AnyMethod, Batch
from trainables.parallel import Parallel
from trainables.precision import dtype_of

Key = tuple[int | Tensor, ...]  # what an augmentation's draws depend on


@dataclass(frozen=True)
class Step:
    """One forward pass: which images, and what of it is this worker's."""

    image: Tensor  # int64 [B], numbers of images
    occurrence: Tensor  # int64 [B]
    own: Tensor  # int64 [b], positions in the batch
    on_host: tuple[Tensor, Tensor, Tensor]  # these three on the CPU, for what is drawn and read there
    share: float  # what a mean over `own` is multiplied with, so that the mean over workers is the mean over the batch
    last: bool  # of an optimiser step


class Feed:
    """The batches of one worker of a trial."""

    def __init__(
        self,
        config: TrialConfig,
        data: TrialData,
        device: torch.device,
        parallel: Parallel,
        method: AnyMethod,
    ) -> None:
        """Images go to the device, unless they stay on disk."""
        self.config, self.device, self.parallel = config, device, parallel
        self.method = method
        self.loop, self.dtype = config.loop, dtype_of(config)
        self.mean, self.std = data.mean, data.std
        # uint8 [N, 3, H, W] on the device; of a set that does not fit into memory, on disk.
        self.images: Tensor | Rows = (
            data.train.images
            if isinstance(data.train.images, Rows)
            else torch.from_numpy(np.ascontiguousarray(data.train.images)).to(device)
        )
        alone = isinstance(self.images, Rows) and device.type == "cpu"
        self.normalize = normalize_by_table if alone else normalize
        self.labels = torch.from_numpy(data.train.labels)
        self.labels_here = self.labels.to(device)
        a = config.augmentation
        size = config.data.image_size or self.images.shape[-1]
        built = {name: augmentation.build(name, a, size=size) for name in set(a.policies)}
        self.policies = [built[name] for name in a.policies]
        self.streams = (self.loop.sampling, *config.method.streams(config))

    def steps(self, epoch: int) -> list[Step]:
        """The forward passes of an epoch.

        The last partial batch is dropped unless an epoch is smaller than a batch. So is the last group of fewer than
        ``accumulate`` batches; ``check_batches`` has seen to it that it is not the only one.
        """
        training = self.config.training
        drawn = [
            sampling.draw(rule, self.labels, self.config.seed, epoch, self.loop.epochs, stream)
            for stream, rule in enumerate(self.streams)
        ]
        most = min(len(stream.image) for stream in drawn)
        size = min(training.batch_size, most)
        number = most // size // training.accumulate * training.accumulate
        own = self.parallel.shard(torch.arange(size))
        positions = torch.cat([own + stream * size for stream in range(len(drawn))])
        share = self.parallel.share(torch.arange(size))
        images, occurrences = [stream.image for stream in drawn], [stream.occurrence for stream in drawn]

        def of(parts: list[Tensor], number: int) -> Tensor:
            return torch.cat([part[number * size : (number + 1) * size] for part in parts])

        here = self._sent(positions)
        found = []
        for i in range(number):
            image, occurrence, last = of(images, i), of(occurrences, i), (i + 1) % training.accumulate == 0
            on_host = image, occurrence, positions
            found.append(Step(self._sent(image), self._sent(occurrence), here, on_host, share, last))
        return found

    def _sent(self, values: Tensor) -> Tensor:
        """To the device, without waiting for it."""
        return self._pinned(values).to(self.device, non_blocking=True)

    def batches(self, steps: Sequence[Step], epoch: int) -> Iterator[tuple[Step, Batch]]:
        """Every step with its batch. Images on disk are read one batch ahead, in a thread."""
        mixes = [self._mix(step, epoch) for step in steps]
        needed = [self._needed(step, mix) for step, mix in zip(steps, mixes, strict=True)]
        read = self._read([(step, at) for step, at in zip(steps, needed, strict=True)], epoch)
        for step, mix, at, pixels in zip(steps, mixes, needed, read, strict=True):
            mix_here = mixing.Mix(*map(self._sent, mix)) if mix is not None else None
            yield step, self._batch(step, epoch, mix_here, self._sent(at), pixels)

    def _mix(self, step: Step, epoch: int) -> mixing.Mix | None:
        if self.config.augmentation.mix == "none":
            return None
        image, occurrence, _ = step.on_host
        return mixing.draw(self.config, epoch, image, occurrence)

    def _needed(self, step: Step, mix: mixing.Mix | None) -> Tensor:
        """Positions in the batch that this worker augments: its own and, where images are mixed, their partners behind."""
        _, _, own = step.on_host
        return own if mix is None else torch.cat([own, mix.partner[own]])

    def _read(self, wanted: Sequence[tuple[Step, Tensor]], epoch: int) -> Iterator[Tensor]:
        """uint8 ``[n, 3, H, W]``, or ``[T, n, 3, S, S]`` where copies are cut out of whole pictures."""
        if isinstance(self.images, Tensor):
            yield from (self.images[self._sent(step.on_host[0][at])] for step, at in wanted)
            return
        with ThreadPoolExecutor(1) as reader:

            def ahead(step: Step, at: Tensor) -> Future[Tensor]:
                image, occurrence, _ = step.on_host
                image, occurrence = image[at], occurrence[at]
                return reader.submit(self._load, image, self._key(epoch, image, occurrence))

            coming = ahead(*wanted[0])
            for following in [*wanted[1:], None]:
                pixels = coming.result()
                if following is not None:
                    coming = ahead(*following)
                yield pixels.to(self.device, non_blocking=True)

    def _load(self, image: Tensor, key: Key) -> Tensor:
        assert isinstance(self.images, Rows)
        if not self.config.data.whole:
            return self._pinned(torch.from_numpy(self.images[image.numpy()]))
        copies = [(policy, self._uniforms(key, copy, image.device)) for copy, policy in enumerate(self.policies)]
        return self._pinned(cut_copies(self.images.pictures, image, copies))

    def _pinned(self, pixels: Tensor) -> Tensor:
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def _key(self, epoch: int, image: Tensor, occurrence: Tensor) -> Key:
        return (self.config.seed, draws.STREAMS["augment"], epoch, image, occurrence)

    def _batch(self, step: Step, epoch: int, mix: mixing.Mix | None, at: Tensor, pixels: Tensor) -> Batch:
        """Augment, normalise and mix; ask the teachers."""
        config, b = self.config, len(step.own)
        image, occurrence = step.image[at], step.occurrence[at]
        labels = self.labels_here[image]
        key = self._key(epoch, image, occurrence)
        if not config.data.whole:
            pixels = self.method.pixels(pixels, labels, key).expand(len(self.policies), *[-1] * 4)
        copies = [self._copy(of_copy, key, copy) for copy, of_copy in enumerate(pixels)]
        batch = torch.cat(copies) if len(copies) > 1 else copies[0]
        inputs = self.normalize(batch, self.mean, self.std, dtype=self.dtype).unflatten(0, (len(copies), len(at)))
        partner_labels = coefficient = None
        if mix is not None:
            own_mix = mixing.Mix(*(values[step.own] for values in mix))
            inputs, coefficient = mixing.apply(config.augmentation.mix, inputs[:, :b], inputs[:, b:], own_mix)
            partner_labels = labels[b:]
        inputs = inputs.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        taught = tuple(teacher.logits(inputs).unflatten(1, (-1, b)) for teacher in self.method.teachers)
        empty = torch.empty(0)
        return Batch(
            inputs,
            labels[:b],
            image[:b],
            occurrence[:b],
            epoch,
            config.seed,
            logits=empty,
            features=empty,
            partner_labels=partner_labels,
            coefficient=coefficient,
            teacher_logits=taught or None,
        )

    def _copy(self, pixels: Tensor, key: Key, copy: int) -> Tensor:
        return self.policies[copy](pixels, self._uniforms(key, copy, self.device), cut=self.config.data.whole)

    def _uniforms(self, key: Key, copy: int, device: torch.device) -> Tensor:
        return draws.uniforms((*key, copy), self.policies[copy].draws, device=device)
