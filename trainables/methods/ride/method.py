"""RIDE, stage 1."""

from __future__ import annotations

from torch import Tensor

from trainables.config import TrialConfig
from trainables.losses import diversity, single, weights
from trainables.methods.base import Batch
from trainables.methods.ride.options import RIDEOptions
from trainables.methods.single_loss import SingleLoss


class RIDE(SingleLoss[RIDEOptions]):
    """``Σ_k L(z_k) - λ/(K-1) Σ_k Σ_{q≠k} KL(p_k ‖ p_q)``, L being LDAM-DRW (eq. 2, 3)."""

    margins: Tensor
    class_temperature: Tensor

    def __init__(self, config: TrialConfig, class_counts: Tensor) -> None:
        """Keep margins and temperatures ``[C]``."""
        super().__init__(config, class_counts)
        n = class_counts.double()
        scale = config.model.cosine_scale if config.model.classifier == "cosine" else 1.0
        margins = scale * weights.margins(n, self.options.max_margin)
        self.register_buffer("margins", margins.to(self.dtype), persistent=False)
        self.register_buffer("class_temperature", diversity.class_temperature(n).to(self.dtype), persistent=False)
        self.mean_temperature = float(self.class_temperature.mean())  # read at a step, it would wait for the device

    def weighted(self, epoch: int) -> bool:
        """Balanced softmax needs no weights."""
        return self.options.loss != "bsce" and super().weighted(epoch)

    def sample_losses(self, z: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """``[K, T, B]``."""
        if self.options.loss == "ldam":
            return single.margin(z, labels, self.margins)
        return single.cross_entropy(z + self.log_n if self.options.loss == "bsce" else z, labels)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Both terms."""
        own = self.mean_loss(batch, lambda labels: self.sample_losses(batch.logits, labels, batch))
        apart = self.diversity(batch)
        return {"loss": own - self.options.diversity * apart, "own": own.detach(), "diversity": apart.detach()}

    def diversity(self, batch: Batch) -> Tensor:
        """What λ multiplies."""
        late = batch.epoch >= int(self.options.reweight_from * self.epochs)
        soft = self.options.temperature == "class" and late
        temperature = self.class_temperature if soft else 1.0
        if self.options.formulation == "paper":
            return diversity.pairs(batch.logits, temperature)
        mean = self.mean_temperature if soft else 1.0
        return diversity.from_mean(batch.logits, temperature, mean**2)
