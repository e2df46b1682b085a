"""Catalogues: a dict from a name to the dotted path of what it names, imported when it is used.

A catalogue is the only list of its names: configurations check against it, and a plan that knows the names needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema


def load(dotted: str) -> Any:
    """What a dotted path names."""
    module, name = dotted.rsplit(".", 1)
    return getattr(import_module(module), name)


class OneOf:
    """``Annotated[str, OneOf(CATALOGUE)]``: a name that must be in a catalogue."""

    def __init__(self, catalogue: Mapping[str, Any]) -> None:
        """The catalogue is looked at when a value is checked: names may be added to it."""
        self.catalogue = catalogue

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text, then one of the names."""
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What editors offer."""
        return {**handler(schema), "enum": list(self.catalogue)}

    def _check(self, value: str) -> str:
        if value not in self.catalogue:
            # The kind of error that pydantic gives for a Literal, so that messages treat both alike.
            expected = ", ".join(repr(name) for name in self.catalogue)
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return value
