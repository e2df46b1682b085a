"""Turning a validation error into one message that names file, key, value, what is allowed and the way out."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from trainables.errors import UserError


def suggest(word: str, known: Sequence[str]) -> str:
    """``did you mean …? `` and the known words, for a word that is not one of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(known)}"


def explain(
    error: ValidationError, model: type[BaseModel], where: str, special: Mapping[str, type[BaseModel]] | None = None
) -> UserError:
    """All problems of a validation error, one a line; ``special`` are models that top-level keys really hold."""
    problems = _one_for_a_union([dict(problem) for problem in error.errors()])
    lines = [_line(problem, model, special or {}) for problem in problems]
    return UserError("\n".join(f"{where}: {line}" for line in lines))


_TAG = re.compile(r"^(int|float|str|bool)$|^(list\[|tuple\[|function-|constrained-|literal\[)")


def _one_for_a_union(problems: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a value that may be of several kinds, pydantic tells of each kind that it is not: one problem of these is enough.

    A mapping is meant to be the one kind that is a mapping: what is wrong inside of it stays.
    """
    kept: list[dict[str, Any]] = []
    told: set[tuple[Any, ...]] = set()
    for problem in problems:
        loc = tuple(problem["loc"])
        at = next((i for i, part in enumerate(loc) if i and isinstance(part, str) and _TAG.match(part)), None)
        if at is None:
            kept.append(problem)
            continue
        rivals = [p for p in problems if len(p["loc"]) > at and tuple(p["loc"])[:at] == loc[:at]]
        if len({str(p["loc"][at]) for p in rivals}) < 2:  # a key that is called like a type
            kept.append(problem)
            continue
        # What is wrong inside of the value, or with the whole of one of its kind, tells which kind is meant.
        meant = [p for p in rivals if len(p["loc"]) > at + 1 or not p["type"].endswith(("_type", "_parsing", "_float"))]
        if meant:
            if problem in meant:
                kept.append({**problem, "loc": (*loc[:at], *loc[at + 1 :])})
        elif loc[:at] not in told:
            told.add(loc[:at])
            kinds = " or ".join(dict.fromkeys(_kind(p) for p in rivals))
            kept.append({**problem, "loc": loc[:at], "type": "union", "msg": f"must be {kinds}"})
    return kept


def _kind(problem: Mapping[str, Any]) -> str:
    """``a valid integer`` out of ``Input should be a valid integer, …``."""
    said = str(problem["msg"]).removeprefix("Input should be ").partition(",")[0]
    return "a mapping" if "dictionary" in said or "instance of" in said else said


def _line(problem: dict[str, Any], model: type[BaseModel], special: Mapping[str, type[BaseModel]]) -> str:
    loc = tuple(problem["loc"])
    key = ".".join(str(part) for part in loc) or "(whole)"
    kind, value = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        owner = special.get(str(loc[0])) or _model_at(model, loc[:-1])
        known = [field.alias or name for name, field in owner.model_fields.items()] if owner is not None else []
        return f"unknown key {key!r}; {suggest(str(loc[-1]), known)}" if known else f"unknown key {key!r}"
    if kind == "value_error":
        return f"{key}: {problem['ctx']['error']}" if loc else str(problem["ctx"]["error"])
    if kind == "missing":
        return f"{key} is missing"
    if kind in ("literal_error", "enum"):
        expected = str(problem["ctx"]["expected"])
        words = [word.strip(" '") for word in expected.replace(" or ", ", ").split(",")]
        return f"{key} = {value!r}: {suggest(str(value), words)}"
    return f"{key} = {value!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def _model_at(model: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    """The model that a location lies in, walking through optionals, lists and mappings."""
    current: type[BaseModel] | None = model
    for part in loc:
        if current is None:
            return None
        field = current.model_fields.get(str(part))
        if field is None:
            continue  # an index, or the tag of a union
        current = first_model(field.annotation)
    return current


def first_model(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation holds, if any: of an optional, a list, a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        for argument in typing.get_args(annotation):
            found = first_model(argument)
            if found is not None:
                return found
    return None
