"""Weights to start from: torchvision's of ImageNet, for the backbones that have them, or a file of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torchvision.models import get_model_weights

from trainables.errors import DataError
from trainables.models import BACKBONES, imagenet_resnet


def fetch(name: str, file: str | None = None) -> dict[str, Any]:
    """The weights of a backbone, from torch's cache or downloaded into it; those of a ``file`` there, if one is named.

    Raises ``DataError`` naming the file, the folder and where it comes from, if that does not work.
    """
    if file is not None:
        return _own(name, file)
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


def _own(name: str, file: str) -> dict[str, Any]:
    """A file's weights, as torchvision calls them; what wraps them and the names that DataParallel gives are taken off."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(
            f"model.pretrained = {file!r}: it is not in {path.parent}; put it there on every node, or set TORCH_HOME to a "
            "folder whose hub/checkpoints has it"
        ) from None
    except Exception as error:  # no file of torch's, or one that would run code: what loading raises then has no end
        told = " ".join(str(error).split())[:100]
        raise DataError(f"model.pretrained = {file!r}: {path} is no file of weights ({told})") from None
    for wrapper in ("state_dict", "model", "network"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    state = {str(key).removeprefix("module."): value for key, value in found.items()} if isinstance(found, dict) else {}
    wanted = {key: value.shape for key, value in imagenet_resnet.state(name).items() if not key.startswith("fc.")}
    lacking = [key for key, shape in wanted.items() if getattr(state.get(key), "shape", None) != shape]
    if lacking:
        some = ", ".join(lacking[:3]) + (" …" if len(lacking) > 3 else "")
        raise DataError(
            f"model.pretrained = {file!r}: {path} has no {some} of the shape in {name} ({len(lacking)} of {len(wanted)}); "
            "name weights of this backbone as torchvision calls them"
        )
    return {key: state[key] for key in wanted}
