"""Overriding configurations: dotted keys, nested mappings and how they merge."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from trainables.errors import UserError
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


def nest_key(key: str, value: Any) -> Tree:
    """A dotted key of a study. Names in a search space have dots of their own."""
    space = "search.space."
    if key.startswith(space):
        return {"search": {"space": {key.removeprefix(space): value}}}
    if key == space.removesuffix("."):
        return {"search": {"space": value}}
    return nest({key: value})


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


def parse_assignment(text: str) -> Tree:
    """``method.beta=0.5`` of ``--set``; the value is YAML. Raises ``UserError``."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: must be key=value, for example --set base.method.beta=0.5")
    try:
        return nest_key(key.strip(), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r}: the value is not YAML ({str(error).splitlines()[0]})") from None
