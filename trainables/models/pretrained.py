"""torchvision's ImageNet weights, for the backbones that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model_weights

from trainables.errors import DataError
from trainables.models import BACKBONES


def fetch(name: str) -> dict[str, Any]:
    """The weights of a backbone, from torch's cache or downloaded into it.

    Raises ``DataError`` naming the file, the folder and where it comes from, if neither works.
    """
    weights = get_model_weights(BACKBONES[name].weights or name).IMAGENET1K_V1
    file = weights.url.rsplit("/", 1)[-1]
    try:
        state: dict[str, Any] = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # urllib, OS and hash errors alike
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(
            f"model.pretrained: {file} is not in {folder}, and the download from {weights.url} failed "
            f"({type(error).__name__}: {error}); put the file there, or set TORCH_HOME to a folder whose hub/checkpoints has it"
        ) from None
    return state
