"""Reading YAML strictly: no key twice, ``1e-4`` is a number, errors say where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import UserError
from trainables.files import encodable, read_regular, shown


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice and reads 1e-4 as a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789."),
)


# Bytes of a file; values in it, once its aliases and merges are written out (a long text counts for many); of a number.
LONGEST, MOST_VALUES, MOST_DIGITS = 4 * 2**20, 200_000, 400


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping; raises ``UserError`` if the file is missing, not YAML or not a mapping."""
    try:
        text = read_regular(file, LONGEST).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    tree = parse_yaml(text, str(file))
    if not isinstance(tree, dict):
        raise UserError(f"{file}: a study is a mapping (name, base, ablation, search, …), not {type(tree).__name__}")
    return {str(key): value for key, value in tree.items()}


def parse_yaml(text: str, where: str) -> Any:
    """What a text says; raises ``UserError``, and does not unfold what would be too large."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None and _size(node, {}) > MOST_VALUES:
                raise UserError(
                    f"{where}: with its aliases and merges written out it has more than {MOST_VALUES} values; write less of it"
                )
            tree = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
        raise UserError(f"{where}{place}: not YAML: {said}") from None
    except (ValueError, OverflowError) as error:  # a date that is none, a number of a million digits
        raise UserError(f"{where}: not YAML: {str(error).partition(';')[0]}") from None
    check_texts({"": tree} if not isinstance(tree, Mapping) else tree, where)
    return tree


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node has, an alias counted as what it stands for; raises ``YAMLError`` for one inside of itself."""
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > MOST_DIGITS and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            said = f"a number of {len(node.value)} characters"
            raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
        return 1 + len(node.value) // 100
    size = known.get(id(node))
    if size == 0:
        raise yaml.constructor.ConstructorError(None, None, "an alias inside of what it stands for", node.start_mark)
    if size is None:
        known[id(node)] = 0
        pairs = isinstance(node, yaml.MappingNode)
        inner = [one for pair in node.value for one in pair] if pairs else node.value
        size = known[id(node)] = 1 + sum(_size(one, known) for one in inner)
    return size


def check_texts(tree: Mapping[Any, Any], where: str) -> None:
    """Raises ``UserError`` for a NUL, or half of a surrogate pair, in a text or a key: no file and no server takes them."""
    for place, text in _texts(tree, ""):
        if not encodable(text):
            raise UserError(
                f"{where}: {shown(place)} = {text!r}: holds a NUL, or a character that UTF-8 does not have; leave it out"
            )


def _texts(value: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            below = f"{place}.{key}" if place else str(key)
            yield f"the key {below}", str(key)
            yield from _texts(inner, below)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{place}[{number}]")
    elif isinstance(value, str):
        yield place, value
