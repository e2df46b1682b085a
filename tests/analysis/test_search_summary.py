"""The search's tables and the data of its figures."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from analysis.figures import search as search_figures
from analysis.figures import search_front, style
from analysis.read.mlflow_store import TrackingStore
from analysis.read.selection import by_cell
from analysis.tables import search as search_summary
from analysis.tables.record import marks
from analysis.tables.search import SearchSummary
from tests.analysis.conftest import SWEEP, Store, search


@pytest.fixture(scope="module")
def summary(store: Store) -> SearchSummary:
    runs = TrackingStore(store.uri).sweep(SWEEP)
    assert runs.search is not None
    return search_summary.build(runs.search, by_cell(runs.frame))


def test_best_in_percent(summary: SearchSummary) -> None:
    assert [trial.number for trial in summary.best] == [4, 2, 1, 5, 0]
    assert summary.best[0].values == [pytest.approx(38)]


def test_confirmed_on_the_test_set(summary: SearchSummary) -> None:
    first = summary.confirmed[0]
    assert (first.number, first.n, first.planned) == (4, 2, 2) and first.values == (pytest.approx(38),)
    assert first.single is not None and first.single.mean == pytest.approx(51)
    assert first.ensemble is not None and first.ensemble.std == pytest.approx(2 / 2**0.5)
    assert summary.absent == ()  # epochs differ between winners, which a search allows


def test_winners_are_ranked_on_validation_and_not_marked(summary: SearchSummary) -> None:
    """The second winner's test score may be above the first's: nothing points at it."""
    made = search_summary.confirmed_table(summary)
    assert [mark for row in marks(made) for mark in row if mark] == []
    assert "rank on validation" in made.caption and [row[0] for row in made.rows] == [4, 2]
    text = search_summary.render(summary)
    below = text[text.index("by their rank on validation") :]
    assert "**" not in below and "<u>" not in below and "the test set selects nothing" in below


def test_importances_say_what_they_are_over(summary: SearchSummary) -> None:
    """Of eight trials five finished; a parameter that only some of them have is not rated."""
    over = "ver 5 finished trials (pruned ones are not counted)"
    assert f"\n\nO{over}." in search_summary.render(summary)
    record = search()
    record.space["λ"] = "uniform [0, 1] when method.weights = fixed"
    record.space["lambdas"] = "choice tied, separate"
    conditional = search_summary.build(record, {})
    told = f"{over}; conditional parameters are not rated: λ, lambdas"
    assert f"O{told}." in search_summary.render(conditional)
    with style.style():
        assert search_figures.draw(conditional)["search_importances"][0].endswith(f", o{told}")


def test_labels_are_those_of_the_study(summary: SearchSummary) -> None:
    files = search_summary.render_files(summary, "my_study")
    labels = {name: re.findall(r"\\label\{(.*)\}", text) for name, text in files.items() if name.endswith(".tex")}
    assert labels == {
        "search_best.tex": ["tab:my-study-search-best"],
        "search_confirmed.tex": ["tab:my-study-search-confirmed"],
    }


def test_a_search_under_way_has_no_numbers_yet() -> None:
    record = search().model_copy(update={"best": [], "importances": {}, "stopped_by": ""})
    summary = search_summary.build(record, {})
    assert [(c.single, c.n) for c in summary.confirmed] == [(None, 0), (None, 0)]
    text = search_summary.render(summary)
    assert "No trial has finished." in text and "Not stopped yet." in text and "has not run" in text
    assert search_figures.build_importances(summary) is None


def test_csv(summary: SearchSummary) -> None:
    files = search_summary.render_files(summary)
    trials = list(csv.DictReader(io.StringIO(files["search_trials.csv"])))
    assert len(trials) == 8 and trials[4]["rank"] == "1" and trials[3]["state"] == "pruned"
    assert trials[7]["val/ensemble_top1"] == "" and trials[1]["method.weights"] == "learnable"
    assert trials[6]["optimizer.lr"] == "1e-06"
    assert len(files["search_confirmed.csv"].splitlines()) == 3
    assert files["search_importances.csv"].splitlines()[1] == "val/ensemble_top1,method.beta,0.7"


def test_history(summary: SearchSummary) -> None:
    (history,) = search_figures.build_history(summary)
    assert [number for number, _ in history.finished] == [0, 1, 2, 4, 5]
    assert [number for number, _ in history.pruned] == [3, 6]
    # The best so far counts finished trials only, and goes on to the last trial.
    assert [round(v) for _, v in history.best] == [30, 32, 34, 38, 38, 38] and history.best[-1][0] == 6


def test_history_of_a_metric_to_be_small(summary: SearchSummary) -> None:
    record = search().model_copy(update={"directions": ["min"]})
    (history,) = search_figures.build_history(search_summary.build(record, {}))
    assert {round(v) for _, v in history.best} == {30}


def test_slices(summary: SearchSummary) -> None:
    beta, weights, lr = search_figures.build_slices(summary)
    assert beta.parameter == "method.beta" and beta.categories == () and not beta.log
    assert weights.categories == ("learnable", "fixed")  # as the space lists them
    assert {x for x, _ in weights.finished} == {0.0, 1.0} and len(weights.pruned) == 2
    assert lr.log and len(lr.finished) == 5


def test_a_conditional_parameter_has_points_where_it_was_drawn() -> None:
    record = search()
    for trial in record.trials[:4]:
        del trial.params["method.beta"]
    beta = search_figures.build_slices(search_summary.build(record, {}))[0]
    assert len(beta.finished) + len(beta.pruned) == 3


def test_importances_are_sorted(summary: SearchSummary) -> None:
    found = search_figures.build_importances(summary)
    assert found is not None and found.parameters == ("method.beta", "optimizer.lr", "method.weights")
    assert found.shares["val/ensemble_top1"] == (0.7, 0.2, 0.1)


def test_figures_are_the_same_to_the_byte(summary: SearchSummary, tmp_path: Path) -> None:
    with style.style():
        for name in ("a", "b"):
            style.save(search_figures.render_slices(search_figures.build_slices(summary)), tmp_path / name)
    for end in (".png", ".svg"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_the_pareto_front(summary: SearchSummary) -> None:
    record = search()
    trials = [
        t.model_copy(update={"values": [v, 1 - v] if (v := (t.values or [None])[0]) else None}) for t in record.trials
    ]
    both = record.model_copy(
        update={
            "metrics": ["val/ensemble_top1", "cost/step_gmacs"],
            "directions": ["max", "min"],
            "trials": trials,
            "best": [4, 2],
            "confirmed": [],
            "importances": {},
        }
    )
    (front,) = search_front.build(search_summary.build(both, {}))
    assert (front.x, front.y) == ("cost/step_gmacs", "val/ensemble_top1") and len(front.points) == 5
    assert [number for number, _, _ in front.front] == [4, 2]  # by x, which is smallest for the best
    assert front.front[0][2] == pytest.approx(38) and front.front[0][1] == pytest.approx(0.62)
    assert search_front.build(summary) == []
    with style.style():
        assert search_front.render(front).axes[0].get_xlabel().startswith("training step")
