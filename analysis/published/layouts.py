"""How published tables are laid out in print: ``published/layouts.yaml``, as typed records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from analysis.published.numbers import Number
from trainables.errors import UserError

FILE = Path(__file__).parent / "layouts.yaml"
_VENUE = re.compile(r"[A-Za-z]+'\d\d")
Where = dict[str, str | list[str]]  # columns of the CSV files and what stands there, or may


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LaidColumn(_Part):
    """A column: which numbers stand in it, and with ``gain`` which are printed in parentheses behind them."""

    heading: str
    over: str | list[str] = ""
    where: Where
    gain: Where | None = Field(None, alias="with")

    @property
    def spanners(self) -> tuple[str, ...]:
        """Outermost first."""
        return tuple([self.over] if isinstance(self.over, str) else self.over) if self.over else ()


class Line(_Part):
    """A row that is not a method: which numbers stand in it."""

    heading: str
    where: Where


class RowGroup(_Part):
    """Rows between two rules: methods, as ``[row, setting]`` of the CSV files, or lines. ``marks``: a row's parts."""

    heading: str = ""
    rows: list[tuple[str, str] | Line]
    marks: list[dict[str, bool | str]] = []


class Layout(_Part):
    """A printed table. ``ref``: it has a column of venues; ``parts``: headings of check marks."""

    title: str
    row_heading: str = ""
    ref: bool = False
    parts: list[str] = []
    columns: list[LaidColumn]
    groups: list[RowGroup]
    notes: list[str] = []

    @property
    def by_method(self) -> bool:
        """Are rows of it methods? Else methods stand in columns, or neither."""
        return any(not isinstance(row, Line) for group in self.groups for row in group.rows)


@cache
def load(file: Path = FILE) -> Mapping[tuple[str, str], Layout]:
    """By paper and table; raises ``UserError`` for a file that is not one of layouts."""
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {(paper, name): Layout.model_validate(one) for paper, some in tree.items() for name, one in some.items()}
    except (OSError, yaml.YAMLError, ValidationError, AttributeError) as error:
        raise UserError(f"{file}: not layouts of published tables: {' '.join(str(error).split())[:300]}") from None


def selects(where: Where, number: Number) -> bool:
    """Does the number stand there?"""
    return all(
        _field(number, key) in ([wanted] if isinstance(wanted, str) else wanted) for key, wanted in where.items()
    )


def _field(number: Number, key: str) -> str:
    """As it stands in the CSV file."""
    value = getattr(number, key)
    if isinstance(value, tuple):
        return "|".join(value)
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


def venue(number: Number) -> str:
    """``CVPR'19``; empty where none is printed."""
    return next((part for part in number.note.split("; ") if _VENUE.fullmatch(part)), "")
