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
    import yaml

    from ltsearch.study.yaml_file import check_texts

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: must be key=value, for example --set base.method.beta=0.5")
    try:
        tree = nest_key(key.strip(), yaml.safe_load(value))
        check_texts(tree, f"--set {text!r}")
        return tree
    except yaml.YAMLError as error:
        raise UserError(f"--set {text!r}: the value is not YAML ({str(error).splitlines()[0]})") from None
