"""Study files, as far as a report looks at them: the name, the question, where MLflow and the reports are, the profiles.

``ltsearch.study.spec`` reads and checks all of a study; nothing is checked here that a sweep would have refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import UserError

Tree = dict[str, Any]
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Study:
    """A study file. ``error`` says why it cannot be read; the rest is then empty."""

    file: Path
    name: str = ""
    question: str = ""
    profiles: tuple[str, ...] = ()
    error: str = ""


def read(file: Path) -> Tree:
    """A study on top of what it ``extends``; raises ``UserError`` if it cannot be read or has no name."""
    tree = _whole(file)
    if not isinstance(tree.get("name"), str):
        raise UserError(f"{file}: not a study: a mapping with a `name` was expected")
    return tree


def _whole(file: Path, below: tuple[Path, ...] = ()) -> Tree:
    """The mapping of a file on top of its parents, the last of several on top; ``below`` are the files that extend it."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, a date that is none
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: not a study: a mapping with a `name` was expected")
    parents = tree.pop("extends", [])
    names = [parents] if isinstance(parents, str) else parents
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{file}: extends = {parents!r}: must be a file name or a list of them, relative to this file")
    chain = (*below, file.resolve())
    merged: Tree = {}
    for name in names:
        parent = file.parent / name
        if parent.resolve() in chain:
            raise UserError(f"{file}: extends = {name!r}: the files extend each other")
        merged = _merge(merged, _whole(parent, chain))
    return _merge(merged, _nested(tree))


def _nested(tree: Mapping[str, Any]) -> Tree:
    """``report.folder: x`` as ``report: {folder: x}``, in profiles as well, so that either overrides either."""
    found: Tree = {}
    for key, value in tree.items():
        section, dot, rest = str(key).partition(".")
        node = _nested(value) if isinstance(value, Mapping) else value
        found = _merge(found, {section: _nested({rest: node})} if dot else {key: node})
    return found


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def options(tree: Mapping[str, Any], profile: str | None) -> Callable[[str, str], str | None]:
    """Return a look-up of texts of the study by section and key; a profile's come first."""
    profiles = tree.get("profiles")
    chosen = profiles.get(profile) if isinstance(profiles, Mapping) and profile else None
    sources = [_nested(source) for source in (chosen, tree) if isinstance(source, Mapping)]

    def option(section: str, key: str) -> str | None:
        for source in sources:
            nested = source.get(section)
            found = nested.get(key) if isinstance(nested, Mapping) else None
            if found is not None:
                return str(found)
        return None

    return option


def find(folder: Path) -> list[Study]:
    """Every study below a folder, sorted by file; files without a name are parts of studies and are left out."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of studies")
    found = []
    for file in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        try:
            tree = _whole(file)
        except UserError as error:
            found.append(Study(file, error=str(error)))
            continue
        except RecursionError:  # a list of aliases of itself
            found.append(Study(file, error=f"{file}: nested too deeply"))
            continue
        if isinstance(tree.get("name"), str):
            profiles = tree.get("profiles")
            names = tuple(map(str, profiles)) if isinstance(profiles, Mapping) else ()
            found.append(Study(file, tree["name"], str(tree.get("question") or ""), names))
    return found
