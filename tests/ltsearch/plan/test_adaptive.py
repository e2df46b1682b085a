"""Adaptive seeds: how many, by scipy's Dunnett test of the first, and that a sweep which goes on comes to the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ltsearch.plan import adaptive
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run.jobs import Outcome, bare_record
from ltsearch.run.queue import Queue
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
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
    tree = study(**{"seeds": RULE, **over})
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


def needed(rows: list[str], halfwidth: float) -> int:
    """By scipy's Dunnett test of the first three seeds: its intervals shrink with the root of the number of seeds."""
    first = {row: VALUES[row][:3] for row in rows}
    theirs = stats.dunnett(*(first[row] for row in rows[1:]), control=first[rows[0]], random_state=0)
    interval = theirs.confidence_interval(0.95)
    return math.ceil(3 * ((interval.high - interval.low)[0] / 2 / halfwidth) ** 2)


def test_how_many_all_rows_get(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds={**RULE, "max": 500})
    three = dict.fromkeys(VALUES, 3)
    assert adaptive.seeds_now(made, {}.get) == three and adaptive.first(made) == 3
    records = finished(made, three)
    found = adaptive.seeds_now(made, records.get)
    want = needed(list(VALUES), 1.0)
    assert 100 < want < 500 and found == dict.fromkeys(VALUES, found["base"])
    assert found["base"] == pytest.approx(want, rel=0.02)
    assert f"(Stein's two-stage rule); {found['base']} needed" in adaptive.describe(made, records.get)
    # What later seeds give changes nothing: that is what makes the coverage exact.
    wild = {cell: r for cell, r in finished(made, dict.fromkeys(VALUES, 6)).items()}
    assert adaptive.seeds_now(made, wild.get) == found


def test_no_more_than_the_most(tmp_path: Path) -> None:
    made = plan(tmp_path)
    records = finished(made, dict.fromkeys(VALUES, 3))
    assert adaptive.seeds_now(made, records.get) == dict.fromkeys(VALUES, 6)
    assert adaptive.describe(made, records.get).endswith("needed, 6 taken")


def test_three_are_enough_where_they_agree(tmp_path: Path) -> None:
    made = plan(tmp_path, seeds={**RULE, "until": {"ci_halfwidth": 40}})
    assert adaptive.seeds_now(made, finished(made, dict.fromkeys(VALUES, 3)).get) == dict.fromkeys(VALUES, 3)


def test_a_row_that_cannot_finish_gets_no_seeds_for_ever(tmp_path: Path) -> None:
    made = plan(tmp_path)
    records = finished(made, dict.fromkeys(VALUES, 6))
    row = next(r for r in made.rows if r.name == "base + NFL")
    for cell in row.cells:
        records[cell.id] = records[cell.id].model_copy(update={"status": Status.DIVERGED})
    found = adaptive.seeds_now(made, records.get)
    assert found["base + NFL"] == 3 and found["base + InterCL"] == 6
    assert "“base + NFL” has no two results" in adaptive.describe(made, records.get)


def drain(made: Plan, store: CellStore, most: int = 1000) -> list[str]:
    """Work off the queue, ``most`` cells of it."""
    queue = Queue(made, store, None, [], lambda record: False)
    names = {cell.id: (row.name, i) for row in made.rows for i, cell in enumerate(row.cells)}
    done = []
    while len(done) < most and (job := queue.next()) is not None:
        name, i = names[job.cell.id]
        epoch = Epoch(epoch=9, metrics={"test/single_class_mean": VALUES[name][i] / 100})
        record = bare_record(job).model_copy(update={"history": [epoch]})
        store.settle(record, Status.FINISHED)
        queue.end(job, Outcome(Status.FINISHED))
        done.append(job.cell.id)
    return done


def test_the_queue_grows_and_goes_on_where_it_was(tmp_path: Path) -> None:
    made = plan(tmp_path)
    whole = drain(made, CellStore(tmp_path / "whole"))
    assert len(whole) == 4 * 6
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
