"""Trials that came before: networks with their final weights, as teachers, as a start, or for what they have selected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from trainables import checkpoint, draws
from trainables.config import TrialConfig
from trainables.errors import UserError
from trainables.files import Location
from trainables.methods import method_class
from trainables.methods.base import AnyMethod
from trainables.methods.options import Requirement
from trainables.models import network
from trainables.models.network import Network
from trainables.precision import dtype_of


class BrokenWeights(RuntimeError):
    """``weights.pt`` of a required trial is missing, damaged, or does not fit."""


@dataclass(frozen=True)
class Trained:
    """A finished trial; frozen, in evaluation mode."""

    config: TrialConfig
    network: Network
    method: AnyMethod

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """What the trial predicts of ``[N, 3, H, W]``: ``[K', N, C]``."""
        return self.method.predict(self.method.forward(self.network, inputs)).logits


def assemble(config: TrialConfig, counts: Tensor, start: dict[str, Any] | None = None) -> tuple[Network, AnyMethod]:
    """A trial's network and method on the CPU; ``start``: the state of the network that it goes on from.

    Raises ``BrokenWeights`` if the state does not fit.
    """
    made = network.build(config.model, len(counts), config.seed)
    if start is not None:
        made.to(dtype_of(config))  # or weights would be rounded on their way
        load_state(made, start, "the weights it starts from")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.integer(config.seed, draws.STREAMS["method"]))
        method = method_class(config.method.name)(config, counts)
        method.prepare(made)
    return made, method


def load(config: TrialConfig, path: Location, device: torch.device, dtype: torch.dtype) -> Trained:
    """A required trial with its weights; raises ``BrokenWeights`` naming the file."""
    state = read(path)
    made, method = assemble(config, state["class_counts"])
    made.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    method.to(device, dtype)
    load_state(made, state["network"], str(path))
    load_state(method, state["method"], str(path))
    return Trained(config, made.eval().requires_grad_(False), method.eval().requires_grad_(False))


def read(path: Location) -> dict[str, Any]:
    """What ``save`` wrote; raises ``BrokenWeights`` naming the file."""
    state = checkpoint.load(path)
    if state is None or not {"network", "method", "class_counts"} <= state.keys():
        raise BrokenWeights(f"the weights {path} of a trial that comes first are missing or broken")
    return state


def save(path: Location, made: Network, method: AnyMethod) -> None:
    """``weights.pt``."""
    state = {"network": made.state_dict(), "method": method.state_dict(), "class_counts": method.class_counts.cpu()}
    checkpoint.save(path, state)


def load_state(module: nn.Module, state: dict[str, Any], what: str) -> None:
    """``load_state_dict`` that raises ``BrokenWeights`` naming the tensors that do not fit."""
    if wrong := differences(module.state_dict(), state):
        raise BrokenWeights(f"{what} do not fit the network: {_named(wrong)}")
    module.load_state_dict(state)


def differences(mine: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Tensors that are missing, too many or of another shape."""
    wrong = [f"{name} is missing" for name in mine if name not in theirs]
    wrong += [f"{name} has no place" for name in theirs if name not in mine]
    return wrong + [
        f"{name} is {list(theirs[name].shape)} instead of {list(mine[name].shape)}"
        for name in mine
        if name in theirs and mine[name].shape != theirs[name].shape
    ]


def _named(wrong: list[str], most: int = 5) -> str:
    return "; ".join(wrong[:most]) + (f"; and {len(wrong) - most} more" if len(wrong) > most else "")


def check_fit(config: TrialConfig, where: str) -> None:
    """What the trial starts from must fit its network; raises ``UserError`` naming the tensors, before anything is trained."""
    for role, first in config.method.requires(config):
        if role == "start" and first.model != config.model:
            shapes = _shapes(config.model), _shapes(first.model)
            if wrong := differences(*shapes):
                raise UserError(
                    f"{where}: {config.method.name} goes on from the weights of {first.method.name} ({first.model.backbone}, "
                    f"K = {first.model.experts}), which do not fit {config.model.backbone}, K = {config.model.experts}: "
                    f"{_named(wrong)}; give both the same `model`"
                )


@lru_cache(maxsize=64)
def _shapes(model: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(network.build(model.model_copy(update={"pretrained": False}), 2, 0).state_dict())


def states_for(required: Iterable[Requirement], paths: tuple[Location, ...]) -> list[tuple[Requirement, Location]]:
    """Requirements with their files; raises ``ValueError`` if not all are given."""
    wanted = list(required)
    if len(wanted) != len(paths):
        roles = ", ".join(requirement.role for requirement in wanted) or "none"
        raise ValueError(f"the trial needs the weights of {len(wanted)} trials ({roles}), got {len(paths)}")
    return list(zip(wanted, paths, strict=True))
