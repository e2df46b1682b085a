"""Overrides as a study and the command line write them."""

from __future__ import annotations

from typing import Any

from trainables.errors import UserError
from trainables.overrides import Tree, flatten, merge, nest

__all__ = ["Tree", "flatten", "merge", "nest", "nest_key", "parse_assignment"]


def nest_key(key: str, value: Any) -> Tree:
    """A dotted key of a study. Names in a search space have dots of their own."""
    space = "search.space."
    if key.startswith(space):
        return {"search": {"space": {key.removeprefix(space): value}}}
    if key == space.removesuffix("."):
        return {"search": {"space": value}}
    return nest({key: value})


def parse_assignment(text: str) -> Tree:
    """``method.beta=0.5`` of ``--set``; the value is YAML. Raises ``UserError``."""
    from ltsearch.study.yaml_file import parse_yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: must be key=value, for example --set base.method.beta=0.5")
    if key.strip().split(".")[0] in ("profiles", "extends"):
        raise UserError(
            f"--set {text!r}: profiles are chosen by --profile, and what a study extends stands in its file"
        )
    shown = text if len(text) <= 80 else f"{text[:77]}…"
    return nest_key(key.strip(), parse_yaml(value, f"--set {shown!r}"))
