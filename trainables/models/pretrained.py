"""torchvision's ImageNet weights, for the backbones that have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model_weights

from trainables.errors import DataError
from trainables.models.backbone import Backbone

_NAMES = {"resnet18": "resnet18", "resnet50": "resnet50", "resnet152": "resnet152", "resnext50": "resnext50_32x4d"}


def fetch(name: str) -> dict[str, Any]:
    """The weights of a backbone, from torch's cache or downloaded into it.

    Raises ``DataError`` naming the file, the folder and where it comes from, if neither works.
    """
    weights = get_model_weights(_NAMES[name]).IMAGENET1K_V1  # type: ignore[attr-defined]
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


def load(backbone: Backbone, name: str) -> None:
    """Put the weights into a backbone; those of torchvision's own classifier are left out."""
    state = {f"net.{key}": value for key, value in fetch(name).items() if not key.startswith("fc.")}
    backbone.load_state_dict(state)
