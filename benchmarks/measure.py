"""Interleaved timing, and the rows that every benchmark returns."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One line of a table. ``ratio`` is the factor in our favour, the median over pairs that ran next to each other."""

    what: str
    unit: str = ""
    ours: Spread | None = None
    reference: Spread | None = None
    ratio: Spread | None = None
    target: str = ""  # as asked; empty: none
    met: bool | None = None
    note: str = ""  # why something was skipped, or what the numbers mean


def peak_memory() -> float:
    """The most that this process, libraries and shared pages included, ever held, in GB.

    Linux tells it as of its program's start; ``getrusage`` begins with what the process that started it held.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024 / 1e9
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def interleaved(calls: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of every call, by name: A B … A B …, so that a disturbance of the machine meets all of them alike."""
    for _ in range(warm_up):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        # Every other round runs backwards: none profits from always coming after the same neighbour.
        for name in list(calls) if number % 2 == 0 else reversed(list(calls)):
            started = time.perf_counter()
            calls[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(reference: Sequence[float], ours: Sequence[float]) -> Spread:
    """How many times faster ours is, round by round."""
    return Spread.of([theirs / mine for theirs, mine in zip(reference, ours, strict=True)])


def rates(amount: float, seconds: Sequence[float]) -> Spread:
    """Amount per second."""
    return Spread.of([amount / s for s in seconds])


def usable_cpus() -> int:
    """In a container fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown; columns that no row fills are left out."""
    columns: dict[str, list[str]] = {
        "": [row.what for row in rows],
        "unit": [row.unit for row in rows],
        "reference": [_spread(row.reference) for row in rows],
        "ours": [_spread(row.ours) for row in rows],
        "ratio": [_spread(row.ratio) for row in rows],
        "target": [_target(row) for row in rows],
        "note": [row.note for row in rows],
    }
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [list(kept), ["---"] * len(kept), *(list(cells) for cells in zip(*kept.values(), strict=True))]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _target(row: Row) -> str:
    return row.target + {None: "", True: ", met", False: ", **missed**"}[row.met]


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    if spread.low == spread.high:
        return _number(spread.median)
    return f"{_number(spread.median)} ({_number(spread.low)}–{_number(spread.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
