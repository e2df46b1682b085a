"""The ablation table: its data, from a real store."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats

from analysis import markdown
from analysis.read import state
from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import SweepRuns
from analysis.read.selection import by_cell
from analysis.statistics.seeds import Summary
from analysis.tables import ablation, ablation_table, costs
from analysis.tables.ablation import AblationRow, AblationTable, build, percent
from analysis.tables.record import Column, to_csv, to_latex, to_markdown
from ltsearch.store.records import PlannedCell, headline
from tests.analysis.conftest import ACCURACY, SWEEP, Store, planned
from trainables.errors import UserError


@pytest.fixture(scope="module")
def runs(store: Store) -> SweepRuns:
    return TrackingStore(store.uri).sweep(SWEEP)


@pytest.fixture(scope="module")
def table(runs: SweepRuns) -> AblationTable:
    (only,) = ablation.build(runs.plan, by_cell(runs.frame))
    return only


def row(table: AblationTable, name: str) -> AblationRow:
    return next(r for r in table.rows if r.name == name)


def test_rows_as_planned(table: AblationTable) -> None:
    assert [r.name for r in table.rows] == [*ACCURACY, "NCL++ (ensemble)"]
    assert table.subset == "" and table.reference == "CE"


def test_headlines_in_percent(table: AblationTable) -> None:
    ce, ensemble = row(table, "CE"), row(table, "NCL++ (ensemble)")
    assert ce.accuracy is not None and ensemble.accuracy is not None
    assert (ce.accuracy.mean, ce.accuracy.std, ce.accuracy.n) == (pytest.approx(41), pytest.approx(1), 3)
    assert ensemble.accuracy.mean == pytest.approx(100 * (0.53 + 0.55 + 0.541) / 3)
    assert ensemble.scores["single"] == row(table, "NCL++").accuracy
    assert ensemble.scores["ensemble"] == ensemble.accuracy


def test_shot_groups_belong_to_the_headline(table: AblationTable) -> None:
    single, ensemble = row(table, "NCL++"), row(table, "NCL++ (ensemble)")
    for name, shift in (("many", 10), ("few", -20)):
        for r in (single, ensemble):
            summary = r.scores[name]
            assert summary is not None and r.accuracy is not None
            assert summary.mean == pytest.approx(r.accuracy.mean + shift)
    assert single.scores["medium"] is None  # no such classes: absent, not 0


def test_differences_are_dunnetts(table: AblationTable) -> None:
    """Of all rows with three seeds; those with two give their spread only. The ensemble is of NCL++'s own trials."""
    assert row(table, "CE").difference is None
    values = {r.name: [v for _, v in sorted(percent(table.selection.runs[r.name], headline(r.predict)).items())]
              for r in table.rows}  # fmt: skip
    shares = {"NCL++": 0.5, "NCL++ (ensemble)": 0.5}
    freedom = sum((len(v) - 1) * shares.get(name, 1) for name, v in values.items())
    spread = np.sqrt(sum(np.var(v, ddof=1) * (len(v) - 1) * shares.get(n, 1) for n, v in values.items()) / freedom)
    tested = ["BIL", "NCL++", "NCL++ (ensemble)"]
    correlated = stats.multivariate_t(shape=np.full((3, 3), 0.5) + np.eye(3) / 2, df=freedom)
    for name in tested:
        found = row(table, name).difference
        t = (np.mean(values[name]) - np.mean(values["CE"])) / (spread * np.sqrt(2 / 3))
        p = 1 - correlated.cdf(np.full(3, abs(t)), lower_limit=np.full(3, -abs(t)), random_state=0)
        assert found is not None and found.p == pytest.approx(p, abs=5e-4) and found.significant and found.interval
        critical = (found.interval[1] - found.mean) / (spread * np.sqrt(2 / 3))
        inside = correlated.cdf(np.full(3, critical), lower_limit=np.full(3, -critical), random_state=0)
        assert inside == pytest.approx(0.95, abs=0.004)
    two = row(table, "BIL + InterCL").difference
    assert two is not None and two.n == 2 and two.significant is None and two.mean == pytest.approx(4.5)
    assert f"Differences by Dunnett's test, {freedom:g} degrees of freedom." in table.footnotes
    assert any("finds with 80 % power" in note for note in table.footnotes)


def test_the_reference_and_the_ensemble_of_its_trials_are_compared_seed_by_seed(runs: SweepRuns) -> None:
    rows = [planned("NCL++"), planned("NCL++", "ensemble").model_copy(update={"name": "ensemble"}), planned("CE")]
    (table,) = build(runs.plan.model_copy(update={"rows": rows, "reference": "NCL++"}), by_cell(runs.frame))
    single, ensemble = ([a[i] for a in ACCURACY["NCL++"]] for i in (0, 1))
    theirs = stats.ttest_rel(ensemble, single)
    found = row(table, "ensemble").difference
    # One of two differences of the table, which share its 5 %.
    assert found is not None and found.p == pytest.approx(2 * theirs.pvalue)
    assert found.interval == pytest.approx(tuple(100 * v for v in theirs.confidence_interval(1 - 0.05 / 2)))
    assert "Rows of the reference's own trials are compared with it seed by seed." in table.footnotes
    other = row(table, "CE").difference
    assert other is not None and other.significant


def test_adaptive_seeds_keep_the_spread_of_the_first(runs: SweepRuns) -> None:
    rows = [planned(name) for name in ("CE", "BIL", "NCL++")]
    plan = runs.plan.model_copy(update={"rows": rows, "first_seeds": 2})
    (table,) = build(plan, by_cell(runs.frame))
    note = "Differences by Dunnett's test, 3 degrees of freedom, the spread that of the first 2 seeds (Stein)."
    assert note in table.footnotes


def test_what_is_not_in_the_table(table: AblationTable) -> None:
    assert [(a.row, a.seed, a.reason, a.finished) for a in table.absent] == [
        ("BIL + InterCL", 2, "has not run", False),
        ("BIL + IntraCL", 1, "diverged: the loss is not | finite", False),
        ("random", 0, "left out: dataset fingerprint 0123456789ab instead of ffffffffffff", True),
    ]
    assert row(table, "random").seeds == (1, 2) and row(table, "BIL + IntraCL").seeds == (0, 2)


def test_published_only_where_comparable(table: AblationTable) -> None:
    ce, bil, ensemble = (row(table, name) for name in ("CE", "BIL", "NCL++ (ensemble)"))
    assert ce.published is not None and ce.published.value == 44.79
    assert ce.published_difference == pytest.approx(41 - 44.79)
    assert ensemble.published is not None and ensemble.published.value == 56.33
    assert bil.published is None and bil.published_difference is None
    (line,) = [note for note in table.footnotes if "“BIL”" in note]
    assert "augmentation sim instead of rand or auto" in line and "Table 7" in line


def test_printed(table: AblationTable) -> None:
    made = ablation_table.build(table, "ablation")
    lines = to_markdown(made).splitlines()
    assert lines[2].startswith("| CE               |        41.00 ± 1.00 |   n=3 |") and "reference" in lines[2]
    assert "n=2/3" in lines[4] and "(n=2, not tested)" in lines[4]
    found = row(table, "BIL").difference
    assert found is not None and f"{markdown.difference(found)} |".replace("<", "&lt;") in lines[3]
    assert len({line.count("|") for line in lines[:9]}) == 1
    assert "**54.03 ± 1.00**" in lines[8] and "<u>52.50 ± 0.50</u>" in lines[7]


def test_deviations_are_footnotes(table: AblationTable, runs: SweepRuns) -> None:
    assert table.footnotes[0] == "Trained on CIFAR-100 (exponential, imbalance factor 100), ResNet-32, 400 epochs."
    assert table.footnotes[1] == "All numbers are of the last of 400 epochs; nothing was selected on the test set."
    assert "“BIL + InterCL”: 2 of 3 seeds: seed 2 has not run." in table.footnotes
    assert any("“random”: 2 of 3 seeds: seed 0 left out: dataset fingerprint" in note for note in table.footnotes)
    rows = [planned("CE"), planned("BIL").model_copy(update={"beyond": {"optimizer.lr": 0.2}, "requires": ["a"] * 6})]
    plan = runs.plan.model_copy(update={"rows": rows, "seeds_rule": "3 to 10"})
    (only,) = ablation.build(plan, by_cell(runs.frame))
    assert "“BIL” differs from “CE” in more than the studied axis: optimizer.lr = 0.2." in only.footnotes
    assert any("needs 6 trials (2 a seed) trained before" in note for note in only.footnotes)
    assert "Seeds: 3 to 10." in only.footnotes


@pytest.mark.parametrize(
    ("over", "backbones", "text"),
    [
        (
            {"data__name": "cifar10", "data__data_ratio": 0.04, "data__image_size": 16, "training__epochs": 40},
            ["resnet8"],
            "CIFAR-10 (exponential, imbalance factor 100, data ratio 0.04, 16 px), ResNet-8, 40 epochs",
        ),
        (
            {"data__name": "parquet", "data__path": "sets/caltech101", "data__imbalance__profile": "natural"},
            ["resnet8", "resnet32", "resnet8"],
            "Caltech-101 (natural counts), ResNet-8 and ResNet-32, 400 epochs",
        ),
        (
            {"data__imbalance__factor": 1.0, "data__imbalance__subset_seed": 3, "data__val_per_class": 5},
            ["resnet32"],
            "CIFAR-100 (balanced, without 5 validation images a class, subset seed 3), ResNet-32, 400 epochs",
        ),
        ({"data__imbalance__profile": "step"}, ["resnet32"], "CIFAR-100 (step, imbalance factor 100), ResNet-32, 400 epochs"),
    ],
)  # fmt: skip
def test_a_table_says_what_was_trained_on(over: dict[str, object], backbones: list[str], text: str) -> None:
    rows = [planned(f"row {i}", over={**over, "model__backbone": found}) for i, found in enumerate(backbones)]
    assert ablation.trained_on(rows) == text


def test_a_pasted_table_says_what_was_trained_on(table: AblationTable) -> None:
    latex = to_latex(ablation_table.build(table, "ablation"))
    assert r"Trained on CIFAR-100 (exponential, imbalance factor 100), ResNet-32, 400 epochs." in latex


def test_on_an_unbalanced_test_set_the_mean_over_images_stands_beside(runs: SweepRuns, table: AblationTable) -> None:
    assert not _column(table, "over_images").shown
    cells = {cell: {**run, "test/single_top1": 0.7} for cell, run in by_cell(runs.frame).items()}
    (other,) = build(runs.plan, cells)
    assert row(other, "CE").accuracy == row(table, "CE").accuracy  # what is compared counts classes alike
    assert row(other, "CE").over_images == Summary(pytest.approx(70), pytest.approx(0), 3)  # type: ignore[arg-type]
    assert row(other, "NCL++ (ensemble)").over_images is None
    assert _column(other, "over_images").shown


def _column(table: AblationTable, key: str) -> Column:
    return next(c for c in ablation_table.build(table, "ablation").columns if c.key == key)


def test_the_best_epoch_on_test_is_selected_on_the_test_set(runs: SweepRuns, table: AblationTable) -> None:
    """The column is the one exception, and is named as such only where it is shown."""
    name = "best epoch on test"
    assert not any(name in note for note in table.footnotes)
    cells = {cell: {**run, "best_epoch_on_test/single_class_mean": 0.6} for cell, run in by_cell(runs.frame).items()}
    (only,) = ablation.build(runs.plan, cells)
    made = ablation_table.build(only, "ablation")
    (column,) = [c for c in made.columns if c.heading == name and c.shown]
    assert row(only, "CE").best_epoch == Summary(pytest.approx(60), pytest.approx(0), 3)  # type: ignore[arg-type]
    last = "All numbers are of the last of 400 epochs; nothing was selected on the test set"
    assert f"{last}, but for the column “{column.heading}”." in made.notes and f"{last}." not in made.notes


def test_csv(table: AblationTable) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(ablation_table.build(table, "ablation")))))
    assert [r["row"] for r in rows] == [r.name for r in table.rows]
    assert rows[0]["accuracy"] == "41" and rows[0]["difference"] == "reference" and rows[0]["medium"] == ""
    assert rows[1]["difference_significant"] == "True" and rows[2]["difference_significant"] == ""
    assert rows[2]["accuracy_n"] == "2" and rows[2]["planned"] == "3"
    seeds = list(csv.DictReader(io.StringIO(ablation_table.render_seeds_csv([table]))))
    assert len(seeds) == 18 and seeds[0]["cell"] == "ce-0" and seeds[0]["seconds"] == "30"
    assert seeds[-1]["accuracy"] == "54.1" and seeds[-1]["single_top1"] == "52.5" and seeds[-1]["single_medium"] == ""


def test_settings_have_a_table_each_and_one_together(runs: SweepRuns) -> None:
    rows = [planned(name).model_copy(update={"setting": s}) for s in ("A", "B") for name in ("CE", "NCL++")]
    plan = runs.plan.model_copy(update={"rows": rows})
    tables = ablation.build(plan, by_cell(runs.frame))
    assert [(t.subset, t.setting, t.reference) for t in tables] == [("A", "A", "CE"), ("B", "B", "CE")]
    overview = ablation_table.build_overview(tables, "overview")
    assert overview is not None and [c.heading for c in overview.columns] == ["", "A", "B"]
    assert [row[0] for row in overview.rows] == ["CE", "NCL++"] and overview.rows[1][2] == tables[1].rows[1].accuracy
    assert ablation_table.build_overview(tables[:1], "overview") is None
    assert overview.notes == () and "(n=" not in to_markdown(overview)


def test_the_overview_shows_what_is_missing(runs: SweepRuns) -> None:
    """A seed that has not run, one that was left out, and a row without any number in one of the settings."""
    rows = [planned(name).model_copy(update={"setting": "A"}) for name in ("CE", "BIL + InterCL", "random")]
    gone = [PlannedCell(cell="never", seed=0)]
    rows += [planned("CE").model_copy(update={"setting": "B"})]
    rows += [planned("random").model_copy(update={"setting": "B", "cells": gone})]
    tables = ablation.build(runs.plan.model_copy(update={"rows": rows}), by_cell(runs.frame))
    overview = ablation_table.build_overview(tables, "overview")
    assert overview is not None
    ce, inter, random = (line for line in to_markdown(overview).splitlines()[2:5])
    assert "(n=" not in ce and "45.50 ± 2.12** (n=2/3)" not in inter and "45.50 ± 2.12 (n=2/3)" in inter
    assert "40.25 ± 0.35 (n=2/3)" in random and random.rstrip(" |").endswith("–")
    assert [note.replace("fingerprint 0123456789ab instead of ffffffffffff", "…") for note in overview.notes] == [
        "A, “BIL + InterCL”: seed 2 has not run.",
        "A, “random”: seed 0 left out: dataset ….",
        "B, “random”: seed 0 has not run.",
    ]
    assert "n=2/3" in to_latex(overview) and "has not run" in to_latex(overview)


def test_several_tables_are_judged_one_by_one(runs: SweepRuns) -> None:
    """The same two comparisons in two settings: each table's are those of a family of two."""
    names = ("CE", "BIL", "NCL++")
    rows = [planned(name).model_copy(update={"setting": s}) for s in ("A", "B") for name in names]
    tables = ablation.build(runs.plan.model_copy(update={"rows": rows}), by_cell(runs.frame))
    values = {name: [100 * a for a, _ in ACCURACY[name]] for name in names}
    theirs = stats.dunnett(values["BIL"], values["NCL++"], control=values["CE"], random_state=0).confidence_interval()
    for table in tables:
        for name, low in zip(names[1:], theirs.low, strict=True):
            found = row(table, name).difference
            assert (
                found is not None and found.interval is not None and found.interval[0] == pytest.approx(low, abs=0.03)
            )
    assert "not of all tables" in ablation.how_to_read(tables)
    assert ablation.how_to_read(tables[:1]) == ablation.HOW_TO_READ


def test_data_settings_never_share_a_table(runs: SweepRuns) -> None:
    plan = runs.plan.model_copy(
        update={
            "rows": [
                planned("CE"),
                planned("NCL++"),
                planned("BIL", over={"data__data_ratio": 0.2}),
                planned("BIL + InterCL", over={"data__data_ratio": 0.2}),
            ]
        }
    )
    tables = ablation.build(plan, by_cell(runs.frame))
    assert [(t.subset, t.reference) for t in tables] == [
        ("data.data_ratio = 1.0", "CE"),
        ("data.data_ratio = 0.2", "BIL"),
    ]


def test_an_unknown_published_row_is_refused(runs: SweepRuns) -> None:
    plan = runs.plan.model_copy(update={"rows": [planned("CE", answer="nonsense")]})
    with pytest.raises(UserError, match="no row 'nonsense'"):
        ablation.build(plan, by_cell(runs.frame))


def test_costs_join_rows_of_the_same_trials(table: AblationTable) -> None:
    rows = {r.name: r for r in costs.build([table])}
    assert list(rows)[-1] == "NCL++ / NCL++ (ensemble)"
    means = rows["NCL++ / NCL++ (ensemble)"].means
    assert means["kl_experts"] == pytest.approx(0.2) and means["seconds"] == 30 and means["peak_memory_mib"] == 512
    assert rows["CE"].means["kl_experts"] is None and rows["random"].n == 2


def test_equal_compute_is_what_was_counted() -> None:
    steps = {"NCL++": 48.6, "CE": 12.15, "control": 48.7, "BSCE": 12.15, "NCL": 72.9, "not run": None}
    rows = [costs.CostRow(name, 3, dict.fromkeys(costs.COLUMNS) | {"step_gmacs": step}) for name, step in steps.items()]
    assert costs.equal_compute(rows) == [(12.15, ["CE", "BSCE"]), (48.6, ["NCL++", "control"])]
    assert costs.to_tables(rows)[1].notes == (
        "Of equal compute, 12.2 · 10⁹ multiply-adds a step and image: “CE”, “BSCE”.",
        "Of equal compute, 48.6 · 10⁹ multiply-adds a step and image: “NCL++”, “control”.",
    )


def test_the_ensemble_costs_k_times_one_expert_at_test_time(runs: SweepRuns) -> None:
    experts = {cell: 2 if cell.startswith("ncl++") else 1 for cell in by_cell(runs.frame)}
    logged = {
        cell: {**run, "cost/test_gmacs": 1.5, "cost/train_gmacs": 1.5 * experts[cell]}
        for cell, run in by_cell(runs.frame).items()
    }
    made = costs.to_tables(costs.build(ablation.build(runs.plan, logged)))[1]
    at = {column.heading: i for i, column in enumerate(made.columns)}
    for row, one, all_of_them in (("CE", 1.5, 1.5), ("NCL++ / NCL++ (ensemble)", 1.5, 3.0)):
        (found,) = [cells for cells in made.rows if cells[0] == row]
        assert found[at["test (G)"]] == pytest.approx(one)
        assert found[at["test, ensemble (G)"]] == pytest.approx(all_of_them)


def test_times_of_another_session_are_not_shown(runs: SweepRuns) -> None:
    """Two of BIL's three runs and all of random's are of other hardware: the rest of BIL's stands, random's does not."""
    cells = by_cell(runs.frame)
    other = {"bil-0", "bil-1", "random-0", "random-1", "random-2"}
    seconds = {cell: float(i) for i, cell in enumerate(cells)}
    logged = {
        cell: {**run, "timed": "then; a CPU" if cell in other else "now; a CPU", "total_seconds": seconds[cell]}
        for cell, run in cells.items()
    }
    classes, cost = costs.to_tables(costs.build(ablation.build(runs.plan, logged)))
    at = [column.key for column in cost.columns].index("seconds")
    found = {str(row[0]): row[at] for row in cost.rows}
    assert found["BIL"] == seconds["bil-2"] and found["random"] is None
    assert found["CE"] == pytest.approx(sum(seconds[f"ce-{s}"] for s in range(3)) / 3)
    assert cost.notes == ("Times of “random” are of another session or other hardware: not shown.",)
    assert classes.notes == () and not {c.key for c in classes.columns} & {c.key for c in cost.columns} - {"row", "n"}


def test_state(runs: SweepRuns) -> None:
    found = state.build(runs.plan, runs.search, by_cell(runs.frame))
    assert (found.finished, found.planned, found.confirmed) == (16, 18, (4, 4))
    assert found.grid["BIL + IntraCL"] == {0: "finished", 1: "diverged", 2: "finished"}
    assert found.grid["BIL + InterCL"][2] == "not run" and len(found.reasons) == 2
    assert found.search == {"failed": 1, "finished": 5, "pruned": 2}
    assert math.isclose(found.seconds, 30.0 * len(runs.frame))


@pytest.mark.parametrize(("seconds", "text"), [(3.25, "3.2 s"), (312, "5 min 12 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert state.duration(seconds) == text
