"""Is what lies in a cell's folder the record of that cell?

A record decides what is trained and what a table shows, so it is believed only if it can be read whole, says that it is this
cell's, and holds the configuration that the cell's id is a hash of.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ltsearch.store.ids import cell_id
from ltsearch.store.records import CellRecord
from trainables.config import TrialConfig


class BadRecord(ValueError):
    """What is wrong with it."""


def parse(content: bytes, cell: str) -> CellRecord:
    """The record of a cell; raises ``BadRecord``."""
    try:
        record = CellRecord.model_validate_json(content)
    except ValidationError as error:
        raise BadRecord(_first(error)) from None
    if record.cell != cell:
        raise BadRecord(f"it is the record of cell {record.cell!r}")
    try:
        config = TrialConfig.model_validate(record.config)
    except ValidationError as error:
        raise BadRecord(f"its configuration is not one of this version: {_first(error)}") from None
    if (found := cell_id(config)) != cell:
        raise BadRecord(f"the configuration in it is that of cell {found}")
    return record


def _first(error: ValidationError) -> str:
    """``history.3.metrics.train/loss = nan: must be a finite number``."""
    problem: Any = error.errors()[0]
    key, value = ".".join(map(str, problem["loc"])), problem.get("input")
    match problem["type"]:
        case "json_invalid":
            return f"it is not JSON ({problem['ctx']['error']})"
        case "extra_forbidden":
            return f"unknown key {key!r}"
        case "finite_number":
            return f"{key} = {value}: not a finite number"
        case "missing":
            return f"{key} is missing"
        case _:
            said = str(problem["msg"])
            return f"{key} = {str(value):.80}: {said[:1].lower()}{said[1:]}" if key else said
