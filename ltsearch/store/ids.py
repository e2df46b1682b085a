"""Cells: a trial's configuration, content-addressed.

A cell's id hashes what decides its numbers: the configuration values that differ from their defaults and the recipe versions
of the parts that it uses. Resources, paths, logging and evaluation cadence never enter, and a new field with a neutral default
changes no id.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from trainables.config import TrialConfig
from trainables.recipes import DATA, RECIPES


def identity(config: TrialConfig) -> dict[str, Any]:
    """What is hashed, as plain JSON values."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values.pop("evaluation", None)
    values["seed"] = config.seed
    # A method's options are compared with that method's own defaults, and its name always counts.
    values["method"] = {"name": config.method.name, **config.method.model_dump(mode="json", exclude_defaults=True)}
    return {"config": values, "recipes": recipes(config)}


def recipes(config: TrialConfig) -> dict[str, int]:
    """Recipe versions of the parts that a trial, and what it requires, use."""
    found = {
        **RECIPES,
        "data": DATA.get(config.data.name, RECIPES["data"]),
        f"method.{config.method.name}": config.method.recipe,
    }
    for _, first in config.method.requires(config):
        found |= recipes(first)
    return found


def cell_id(config: TrialConfig) -> str:
    """16 hexadecimal digits."""
    text = json.dumps(identity(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
