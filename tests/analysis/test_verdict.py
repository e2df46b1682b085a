"""What a report begins with: claims against intervals that are computed here by other means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis.read.mlflow_store import TrackingStore
from analysis.read.selection import by_cell
from analysis.statistics.seeds import Difference
from analysis.tables import ablation, verdict
from analysis.tables.ablation import AblationTable
from analysis.tables.verdict import FAILS, HOLDS, OPEN, SHOWN, Verdict
from ltsearch.store.records import Claim, PlanRecord
from tests.analysis.conftest import ACCURACY, SWEEP, Store


@pytest.mark.parametrize(
    ("interval", "direction", "at_least", "says"),
    [
        ((0.5, 2.0), 1, 0.0, HOLDS),
        ((0.5, 2.0), -1, 0.0, FAILS),
        ((-2.0, -0.5), 1, 0.0, FAILS),
        ((-2.0, -0.5), -1, 0.0, HOLDS),
        ((-0.5, 2.0), 1, 0.0, OPEN),
        ((-0.5, 0.8), 1, 1.0, FAILS),  # whatever it is, it is less than worth seeing
        ((-0.5, 1.2), 1, 1.0, OPEN),
        ((0.1, 0.8), 1, 1.0, HOLDS),
        (None, 1, 0.0, OPEN),
    ],
)
def test_the_rule(interval: tuple[float, float] | None, direction: int, at_least: float, says: str) -> None:
    assert verdict.judge(Difference(0.0, interval, 5), direction, at_least) == says
    assert verdict.judge(None) == OPEN


@pytest.fixture(scope="module")
def read(store: Store) -> tuple[PlanRecord, list[AblationTable]]:
    runs = TrackingStore(store.uri).sweep(SWEEP)
    return runs.plan, ablation.build(runs.plan, by_cell(runs.frame))


def test_without_claims_the_papers_differences_are_judged(read: tuple[PlanRecord, list[AblationTable]]) -> None:
    """The paper's are differences of Table 7's own numbers, ours those of the table, with its intervals."""
    plan, tables = read
    found = {v.claim: v for v in verdict.build(plan, tables)}
    rows = {row.name: row for table in tables for row in table.rows}
    assert set(found) == {"BIL is better than CE", "NCL++ is better than CE", "NCL++ (ensemble) is better than CE"}
    for claim, one in found.items():
        name = claim.removesuffix(" is better than CE")
        assert one.ours == rows[name].difference
        assert one.paper == pytest.approx(printed(name) - printed("CE")) and "Table 7" in one.source


def printed(row: str) -> float:
    """From the CSV file itself."""
    import csv
    from pathlib import Path

    import analysis.published

    file = Path(analysis.published.__file__).parent / "ncl_pp.csv"
    predict = "ensemble" if row.endswith("(ensemble)") else "single"
    wanted = ("7", row.removesuffix(" (ensemble)"), predict, "top1", "all")
    with open(file, newline="", encoding="utf-8") as lines:
        found = [
            float(line["value"])
            for line in csv.DictReader(lines)
            if tuple(line[key] for key in ("table", "row", "setting", "metric", "split")) == wanted
        ]
    assert len(found) == 1
    return found[0]


def claims(plan: PlanRecord, *asked: dict[str, Any]) -> PlanRecord:
    return plan.model_copy(update={"claims": [Claim.model_validate(one) for one in asked]})


def values(row: str, predict: int = 0) -> list[float]:
    return [100 * pair[predict] for pair in ACCURACY[row]]


def test_a_single_claim_is_the_pooled_t_test(read: tuple[PlanRecord, list[AblationTable]]) -> None:
    """Of rows that are not the reference: the error pooled over the whole table, by hand."""
    plan, tables = read
    (one,) = verdict.build(claims(plan, {"row": "NCL++", "reference": "BIL"}), tables)
    assert one.claim == "NCL++ is better than BIL" and one.ours is not None and one.ours.interval is not None
    runs = tables[0].selection.runs
    there = {name: [100 * run["test/single_class_mean"] for run in found.values()] for name, found in runs.items()}
    there["NCL++ (ensemble)"] = [100 * run["test/ensemble_class_mean"] for run in runs["NCL++ (ensemble)"].values()]
    halves = {"NCL++": 0.5, "NCL++ (ensemble)": 0.5}  # the same trials: each counts in part
    freedom = sum(halves.get(name, 1) * (len(v) - 1) for name, v in there.items() if len(v) > 1)
    squares = sum(halves.get(name, 1) * sum((np.array(v) - np.mean(v)) ** 2) for name, v in there.items() if len(v) > 1)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(squares / freedom * (1 / 3 + 1 / 3))
    mean = np.mean(values("NCL++")) - np.mean(values("BIL"))
    assert one.ours.mean == pytest.approx(mean)
    assert one.ours.interval == pytest.approx((mean - half, mean + half), abs=0.02 * half)  # a quantile of draws
    assert one.paper == pytest.approx(printed("NCL++") - printed("BIL"))


def test_claims_share_the_five_per_cent(read: tuple[PlanRecord, list[AblationTable]]) -> None:
    plan, tables = read
    pair = {"row": "NCL++", "reference": "BIL"}
    (alone,) = verdict.build(claims(plan, pair), tables)
    several = verdict.build(
        claims(
            plan,
            pair,
            {"row": "NCL++", "reference": "CE", "claim": "It pays."},
            {"row": "NCL++ (ensemble)", "reference": "NCL++"},
            {"row": "NCL++", "reference": "BIL", "metric": "few"},
            {"row": "NCL++", "reference": "BIL", "metric": "ece"},
        ),
        tables,
    )
    width = [v.ours.interval[1] - v.ours.interval[0] if v.ours and v.ours.interval else 0.0 for v in (alone, *several)]
    assert width[1] > 1.1 * width[0] and several[1].claim == "It pays."
    paired = [e - s for s, e in ACCURACY["NCL++"]]
    test = stats.ttest_1samp([100 * d for d in paired], 0)
    wanted = test.confidence_interval(1 - 0.05 * 3 / 5 / 3)
    assert several[2].ours is not None and several[2].ours.interval == pytest.approx((wanted.low, wanted.high))
    assert several[3].claim == "NCL++ is better than BIL, few-shot classes"
    assert several[4].claim.endswith("expected calibration error (points)")


def test_a_claim_of_rows_that_did_not_run(read: tuple[PlanRecord, list[AblationTable]]) -> None:
    plan, tables = read
    empty = [t for t in tables if t.planned]
    (one,) = verdict.build(claims(plan, {"row": "NCL++", "reference": "BIL", "setting": "elsewhere"}), empty)
    assert one.ours is None and one.says == OPEN
    assert "cannot be told at this size: not all of it has run" in verdict.render([one])


def made(says: str, low: float, high: float, **over: Any) -> Verdict:
    ours = Difference((low + high) / 2, (low, high), 5, 0.5)
    told: dict[str, Any] = {"claim": "A is better than B", "where": "", "paper": None, "source": "", **over}
    return Verdict(ours=ours, says=says, **told)


def test_the_box() -> None:
    one = made(HOLDS, 0.2, 1.0, paper=3.7, source="NCL++, Table 7")
    text = verdict.render([one])
    assert text.startswith("**The claim holds.**") and "holds; smaller than the paper's" in text
    assert "+3.70 (NCL++, Table 7)" in text and "+0.60 [+0.20, +1.00]" in text
    two = verdict.render([one, made(FAILS, -2, -1), made(OPEN, -1, 1, detectable=1.25)])
    assert two.startswith("**Of 3 claims 1 holds, 1 does not hold, 1 cannot be told at this size.**")
    assert "from 1.2 points on it could" in two
    assert verdict.render([]) == ""


def test_the_lines_of_the_csv() -> None:
    held = Verdict("a is better than b", "IF 10", Difference(1.5, (0.25, 2.75), 5, 0.01), 2.0, "a paper", HOLDS)
    alone = Verdict("c", "", Difference(1.0, None, 1), None, "", OPEN)
    lines = verdict.render_csv([held, alone, Verdict("d", "", None, None, "", OPEN)])
    assert lines.splitlines() == [
        "row,setting,paper,source,difference,low,high,seeds,p,verdict",
        "a is better than b,IF 10,2,a paper,1.5,0.25,2.75,5,0.01,holds",
        f"c,,,,1,,,1,,{OPEN}",
        f"d,,,,,,,,,{OPEN}",
    ]


def test_many_claims_are_folded() -> None:
    many = [made(HOLDS, 1, 2, claim=f"claim {i}", where=f"setting {i % 2}") for i in range(SHOWN + 3)]
    text = verdict.render(many)
    shown, _, folded = text.partition("<details><summary>3 more</summary>")
    assert "**Of 15 claims 15 hold.**" in shown and f"claim {SHOWN - 1}" in shown and f"claim {SHOWN}" not in shown
    assert f"claim {SHOWN}" in folded and "setting 1" in folded
