"""A study as a tree of mappings, before it is typed: its files, and what is put on top of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltsearch.study.overrides import merge, nest, nest_key
from ltsearch.study.yaml_file import read_yaml
from trainables.errors import UserError

AUTO = {"auto": True, "workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "memory_per_worker": None}
MOST_FILES = 100  # that a study extends, each as often as it is named


def read_study(file: Path, below: tuple[Path, ...] = (), read: list[Path] | None = None) -> dict[str, Any]:
    """The mapping of a file on top of those it ``extends``; raises ``UserError``, also if they extend each other.

    ``read``: the files that were read so far.
    """
    read = [] if read is None else read
    read.append(file)
    if len(read) > MOST_FILES:
        raise UserError(
            f"{read[0]}: extends more than {MOST_FILES} files, by way of {file}; bring some of them together"
        )
    tree = read_yaml(file)
    parents = tree.pop("extends", [])
    names = [parents] if isinstance(parents, str) else parents
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: extends = {parents!r}: must be a file name or a list of them, relative to this file")
    chain = (*below, file.resolve())
    merged: dict[str, Any] = {}
    for name in names:
        parent = file.parent / name
        try:
            again = parent.resolve() in chain
        except (OSError, RuntimeError) as error:  # links that lead to themselves
            raise UserError(f"{file}: extends = {name!r}: cannot be found ({error})") from None
        if again:
            raise UserError(f"{file}: extends = {name!r}: the files extend each other")
        merged = apply(merged, read_study(parent, chain, read))
    return apply(merged, tree)


def apply(tree: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Overrides of a spec. ``base`` merges as configurations do; parameters of a space are replaced whole."""
    merged = merge(_nested_base(tree), _nested_base(nest_outer(over)))
    space = ((over.get("search") or {}) if isinstance(over.get("search"), dict) else {}).get("space")
    if isinstance(space, dict):
        merged["search"]["space"] = {**((tree.get("search") or {}).get("space") or {}), **space}
    return merged


def nest_outer(over: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of ``--set`` and profiles, down to but not into a search space, whose names have dots of their own."""
    out: dict[str, Any] = {}
    for key, value in _long(over).items():
        if key == "search" and isinstance(value, dict):
            for inner, deeper in value.items():
                out = merge(out, nest_key(f"search.{inner}", deeper))
        else:
            out = merge(out, nest_key(str(key), value) if "." in str(key) else {str(key): value})
    return out


def _long(tree: dict[str, Any]) -> dict[str, Any]:
    """``resources: auto`` as the mapping that it is short for, which undoes what it is put on top of."""
    return {**tree, "resources": dict(AUTO)} if tree.get("resources") == "auto" else dict(tree)


def _nested_base(tree: dict[str, Any]) -> dict[str, Any]:
    out = _long(tree)
    if isinstance(out.get("base"), dict):
        out["base"] = nest(out["base"])
    if isinstance(out.get("profiles"), dict):
        out["profiles"] = {
            k: _nested_base(nest_outer(v)) if isinstance(v, dict) else v for k, v in out["profiles"].items()
        }
    return out
