"""Heads of a large sweep's records, kept beside it: what was read and checked whole is not read again while its file stays.

A cache: without it, or where it is damaged or of another version, records are read as if there were none.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json, to_json

from ltsearch.store.records import CellRecord, Status
from trainables.config import TrialConfig
from trainables.files import read_regular, write_text
from trainables.methods import DEFAULT_METHOD, METHODS, options_class
from trainables.recipes import DATA, RECIPES

FILE = "heads.json"
Mark = tuple[int, int, int]  # of a file: inode, size, time of change in nanoseconds
Heads = dict[str, tuple[Mark, CellRecord]]


def load(folder: Path) -> Heads:
    """Heads by cell; none where the file is not one that this version wrote."""
    try:
        seal, _, body = read_regular(folder / FILE).decode().partition("\n")
        names, *heads = from_json(body)
        if seal != _seal(body, names):
            return {}
    except (OSError, ValueError, TypeError):
        return {}
    return {cell: (tuple(mark), _record(head)) for cell, mark, head in heads}


def save(folder: Path, heads: Heads) -> None:
    """Replace the file; raises ``OSError``."""
    names = sorted({head.config.get("method", {}).get("name", DEFAULT_METHOD) for _, head in heads.values()})
    body = to_json([names, *((cell, mark, head) for cell, (mark, head) in heads.items())]).decode()
    write_text(folder / FILE, f"{_seal(body, names)}\n{body}")


def _record(head: dict[str, Any]) -> CellRecord:
    """Without checking it again, which would take as long as what this file saves."""
    return CellRecord.model_construct(**{**head, "status": Status(head["status"])})


def _seal(body: str, names: list[str]) -> str:
    """Of the file, and of what this version takes for a record and for a configuration with the methods of these names."""
    methods = [options_class(name) for name in names if name in METHODS]
    models: list[type[BaseModel]] = [CellRecord, TrialConfig, *methods]
    recipes = [RECIPES, DATA, [method.recipe for method in methods]]
    version = json.dumps([recipes, *(model.model_json_schema() for model in models)], sort_keys=True)
    return hashlib.sha256((version + body).encode()).hexdigest()
