"""Overriding configurations: dotted keys, nested mappings and how they merge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainables.methods import DEFAULT_METHOD

Tree = dict[str, Any]


def nest(mapping: Mapping[str, Any]) -> Tree:
    """``{"method.beta": 0.3}`` and ``{"method": {"beta": 0.3}}`` are the same; of both at once, what comes later stands."""
    tree: Tree = {}
    for key, value in mapping.items():
        node: Any = nest(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            node = {part: node}
        tree = merge(tree, node)
    return tree


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``over`` on top of ``base``, key by key. A mapping that changes its ``name`` replaces the one below it whole.

    Another method, say, has other options: those of the one that it replaces do not follow it. The name of a data set or of
    a schedule is such a name too, but their fields are shared, so only ``method`` is treated so.
    """
    merged: Tree = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            other = key == "method" and "name" in value and value["name"] != below.get("name", DEFAULT_METHOD)
            merged[key] = copy.deepcopy(dict(value)) if other else merge(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists are leaves."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
