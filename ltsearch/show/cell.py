"""What is kept of one cell, as text."""

from __future__ import annotations

import re

import yaml

from ltsearch.show.progress import clock
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord
from trainables.errors import UserError
from trainables.overrides import flatten

_EPOCHS = 5  # of the history that are shown


def describe(store: CellStore, name: str) -> str:
    """A cell's state, configuration and last epochs; ``name`` may be the beginning of an id. Raises ``UserError``."""
    record = store.read(_whole(store, name))
    if record is None:
        why = "; ".join(store.bad.values()) or "there is no such cell"
        raise UserError(f"cell {name}: {why} in --storage {store.root}")
    return "\n".join(_lines(record))


def _whole(store: CellStore, name: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{1,16}", name):
        raise UserError(
            f"cell {name!r}: an id has 16 digits 0-9 and a-f; ids stand in the report and in `ltsearch plan`"
        )
    if len(name) == 16:
        return name
    found = [cell for cell in store.cells() if cell.startswith(name) and re.fullmatch(r"[0-9a-f]{16}", cell)]
    if len(found) != 1:
        many = f"begins {len(found)} ids ({', '.join(found[:5])}, …)" if found else "begins no id"
        raise UserError(
            f"cell {name}: {many} in --storage {store.root}; ids stand in the report and in `ltsearch plan`"
        )
    return found[0]


def _lines(record: CellRecord) -> list[str]:
    took = f" in {clock(record.ended - record.started)}" if record.ended and record.started else ""
    lines = [f"cell {record.cell}: {record.status}{took}" + (f": {record.error}" if record.error else "")]
    lines += [f"data: {record.fingerprint}"] if record.fingerprint else []
    lines += ["recipes: " + ", ".join(f"{part} {version}" for part, version in sorted(record.recipes.items()))]
    lines += ["trained with: " + ", ".join(f"{name} {value}" for name, value in record.provenance.items())]
    lines += ["configuration:"]
    flat = flatten(record.config)
    lines += ["  " + line for line in yaml.safe_dump(flat, sort_keys=False, allow_unicode=True).splitlines()]
    for epoch in record.history[-_EPOCHS:]:
        values = ", ".join(f"{key} {value:.4g}" for key, value in epoch.metrics.items())
        lines.append(f"epoch {epoch.epoch}: {values}")
    return lines
