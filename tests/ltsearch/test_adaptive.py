"""Adaptive seeds: who gets more, by independent intervals, and that a sweep which goes on comes to the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ltsearch import adaptive
from ltsearch.jobs import Outcome
from ltsearch.plan import Plan, make_plan
from ltsearch.queue import Queue
from ltsearch.records import CellRecord, Epoch, Status
from ltsearch.spec import load
from ltsearch.store import CellStore
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError

RULE = {"min": 3, "max": 6, "until": {"ci_halfwidth": 1.0}}
# Accuracies in percent by row and seed: steady, noisy, and noisy at first only.
VALUES = {
    "base": [50.0, 51.0, 49.0, 50.5, 50.0, 50.0],
    "base + NFL": [52.1, 53.0, 51.0, 52.5, 52.0, 52.0],
    "base + InterCL": [50.0, 60.0, 45.0, 58.0, 47.0, 55.0],
    "base + both": [51.0, 52.8, 50.2, 51.6, 51.1, 51.2],
}


def plan(tmp_path: Path, **over: Any) -> Plan:
    tree = study(seeds=RULE, **over)
    del tree["search"]
    both = {"name": "base + both", "with": ["NFL", "InterCL"]}
    tree["ablation"]["rows"] = [both]
    return make_plan(load(write(tmp_path, tree)))


def finished(made: Plan, counts: dict[str, int]) -> dict[str, CellRecord]:
    records = {}
    for row in made.rows:
        for cell, accuracy in zip(row.cells[: counts[row.label]], VALUES[row.name], strict=False):
            epoch = Epoch(epoch=9, metrics={"test/single_class_mean": accuracy / 100})
            records[cell.id] = CellRecord(cell=cell.id, config={}, recipes={}, status=Status.FINISHED, history=[epoch])
    return records


def interval(row: str, n: int) -> float:
    """Half the 95 % confidence interval of scipy's paired test."""
    result = stats.ttest_rel(VALUES[row][:n], VALUES["base"][:n])
    low, high = result.confidence_interval(0.95)
    return float(high - low) / 2


def test_half_width_is_scipys(tmp_path: Path) -> None:
    made = plan(tmp_path)
    rows = {row.name: row for row in made.rows}
    records = finished(made, dict.fromkeys(VALUES, 6))
    for name in list(VALUES)[1:]:
        for n in (2, 3, 6):
            found = adaptive.half_width(rows[name], rows["base"], n, records.get)
            assert found == pytest.approx(interval(name, n))
    assert adaptive.half_width(rows["base + NFL"], rows["base"], 1, records.get) == math.inf


def test_who_gets_more(tmp_path: Path) -> None:
    made = plan(tmp_path)
    three = dict.fromkeys(VALUES, 3)
    assert adaptive.seeds_now(made, {}.get) == three
    records = finished(made, three)
    # Of those that are too wide with three seeds, each gets one more; the reference goes with them.
    wide = {name for name in list(VALUES)[1:] if interval(name, 3) > 1.0}
    assert wide == {"base + InterCL", "base + both"}
    four = {**three, **dict.fromkeys(wide, 4), "base": 4}
    assert adaptive.seeds_now(made, records.get) == four
    records = finished(made, four)
    assert interval("base + both", 4) <= 1.0 < interval("base + InterCL", 4)
    assert adaptive.seeds_now(made, records.get) == {**four, "base + InterCL": 5, "base": 5}
    end = {"base": 6, "base + NFL": 3, "base + InterCL": 6, "base + both": 4}
    assert adaptive.seeds_now(made, finished(made, end).get) == end
    text = adaptive.describe(made, finished(made, end).get)
    assert text.startswith("3 to 6 seeds") and f"base + InterCL (±{interval('base + InterCL', 6):.2f} with 6)" in text


def test_a_row_that_cannot_finish_gets_no_seeds_for_ever(tmp_path: Path) -> None:
    made = plan(tmp_path)
    records = finished(made, dict.fromkeys(VALUES, 6))
    row = next(r for r in made.rows if r.name == "base + NFL")
    for cell in row.cells:
        records[cell.id] = records[cell.id].model_copy(update={"status": Status.DIVERGED})
    found = adaptive.seeds_now(made, records.get)
    assert found["base + NFL"] == 3 and found["base + InterCL"] == 6
    assert "not reached by base + NFL," in adaptive.describe(made, records.get)


def drain(made: Plan, store: CellStore, most: int = 1000) -> list[str]:
    """Work off the queue, ``most`` cells of it."""
    queue = Queue(made, store, None, [], lambda record: False)
    names = {cell.id: (row.name, i) for row in made.rows for i, cell in enumerate(row.cells)}
    done = []
    while len(done) < most and (job := queue.next()) is not None:
        name, i = names[job.cell.id]
        epoch = Epoch(epoch=9, metrics={"test/single_class_mean": VALUES[name][i] / 100})
        record = queue._bare_record(job).model_copy(update={"history": [epoch]})
        store.settle(record, Status.FINISHED)
        queue.end(job, Outcome(Status.FINISHED))
        done.append(job.cell.id)
    return done


def test_the_queue_grows_and_goes_on_where_it_was(tmp_path: Path) -> None:
    made = plan(tmp_path)
    whole = drain(made, CellStore(tmp_path / "whole"))
    assert len(whole) == 6 + 3 + 6 + 4
    parts = CellStore(tmp_path / "parts")
    got: list[str] = []
    while more := drain(made, parts, most=int(np.random.default_rng(len(got)).integers(1, 4))):
        got += more
    assert sorted(got) == sorted(whole)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({"min": 5, "max": 3, "until": {"ci_halfwidth": 1}}, "max = 3 must be >= min = 5"),
        ({"min": 1, "max": 3, "until": {"ci_halfwidth": 1}}, "greater than or equal to 2"),
        ({"min": 3, "max": 3}, "until"),
        ({"min": 3, "max": 4, "until": {"ci_halfwidth": 0}}, "greater than 0"),
    ],
)
def test_bad_rules(tmp_path: Path, seeds: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, {**study(), "seeds": seeds}))
