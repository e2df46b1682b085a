"""Reading YAML strictly: no key twice, ``1e-4`` is a number, errors say where."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainables.errors import UserError
from trainables.files import encodable, shown


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


def read_yaml(file: Path) -> dict[str, Any]:
    """A mapping; raises ``UserError`` if the file is missing, not YAML or not a mapping."""
    try:
        tree = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{file}{place}: not YAML: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, OverflowError) as error:  # a date that is none, a number of a million digits
        raise UserError(f"{file}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{file}: a study is a mapping (name, base, ablation, search, …), not {type(tree).__name__}")
    check_texts(tree, str(file))
    return {str(key): value for key, value in tree.items()}


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
