"""Class weights and margins from class counts.

Legend: ``C`` classes, ``n`` training images of every class, float ``[C]``.
"""

from __future__ import annotations

from torch import Tensor


def effective_number(n: Tensor, beta: float) -> Tensor:
    """``(1 - β)/(1 - β^{n_j})``, scaled to sum C (Cui et al., CVPR 2019, eq. 5 and section 4.2): ``[C]``."""
    weights = (1 - beta) / (1 - beta**n)
    return weights * (len(n) / weights.sum())


def inverse_frequency(n: Tensor, power: float = 1.0) -> Tensor:
    """``n_j^-power``, scaled to sum C: cost-sensitive cross-entropy; ``[C]``."""
    weights = (n / n.min()) ** -power
    return weights * (len(n) / weights.sum())


def margins(n: Tensor, largest: float) -> Tensor:
    """LDAM's ``m_j ∝ n_j^{-1/4}``, the largest given (Cao et al., NeurIPS 2019, eq. 13): ``[C]``."""
    m = n**-0.25
    return m * (largest / m.max())
