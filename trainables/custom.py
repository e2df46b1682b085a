"""A trainable of the user's own: a generator of epochs, searched, stopped early, resumed and recorded like any other.

::

    def train(parameters, seed, folder):       # folder: where it may keep a checkpoint; None: nowhere
        for epoch in range(1, 11):
            ...
            yield {"val/accuracy": 0.9, "train/loss": 0.1}

A metric is called ``train/…``, ``val/…`` or ``test/…``; what is not finite is left out, and a ``train/loss`` that is not has
diverged. A checkpoint of an epoch is kept after its ``yield``, when it is recorded; a function that goes on from one yields
``{"epoch": 7, …}`` first. What it keeps goes when the cell has ended, or is forgotten.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.errors import UserError
from trainables.files import OWN, Location
from trainables.reports import Report

Trainable = Callable[[Mapping[str, Any], int, Location | None], Iterable[Mapping[str, float]]]
LOSS = "train/loss"


def find(name: str) -> Trainable:
    """The function ``module:function``, of the working directory too; raises ``UserError``."""
    module, _, function = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found: Any = import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever a module of the user's raises when it is imported
        raise UserError(
            f"custom.function = {name!r}: {type(error).__name__}: {error}; name a function of a module that "
            "Python finds from here (PYTHONPATH, or the working directory)"
        ) from None
    if not callable(found):
        raise UserError(f"custom.function = {name!r}: is no function")
    trainable: Trainable = found
    return trainable


def train(
    config: TrialConfig, data: TrialData, folder: Location | None, function: Trainable | None = None
) -> Generator[Report]:
    """One report an epoch, of ``function`` or of what the configuration names; it keeps what it likes in a folder of its own.

    Raises ``RuntimeError`` if it yields something else than finite numbers by name, or ends before ``training.epochs``.
    """
    assert config.custom is not None
    function = function or find(config.custom.function)
    started, number = time.monotonic(), 0
    own = folder / OWN if folder is not None else None
    if isinstance(own, Path):
        own.mkdir(parents=True, exist_ok=True)
    for values in function(dict(config.custom.parameters), config.seed, own):
        metrics = _checked(values, config.custom.function)
        number = int(metrics.pop("epoch", number + 1))
        metrics.setdefault("seconds", time.monotonic() - started)
        diverged = not math.isfinite(metrics.get(LOSS, 0.0))
        done = diverged or number >= config.training.epochs
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        yield Report(number, {} if diverged else finite, done=done, diverged=diverged)
        if done:
            return
        started = time.monotonic()
    raise RuntimeError(
        f"{config.custom.function} ended after epoch {number}: training.epochs = {config.training.epochs}"
    )


def _checked(values: object, name: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        raise RuntimeError(f"{name} yielded {values!r}: must be a mapping of metrics by name")
    found = {}
    for key, value in values.items():
        if not isinstance(key, str) or not (key in ("epoch", "seconds") or key.startswith(("train/", "val/", "test/"))):
            raise RuntimeError(f"{name} yielded {key!r}: metrics are called train/…, val/… or test/…")
        try:
            found[key] = float(value)
        except (TypeError, ValueError):
            raise RuntimeError(f"{name} yielded {key} = {value!r}: not a number") from None
    return found
