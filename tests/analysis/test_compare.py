"""Two sweeps side by side: what is the same, what changed and by how much, by hand-made runs."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import compare, report
from analysis.read.mlflow_store import TrackingStore
from analysis.read.runs import SweepRuns
from ltsearch.store.records import PlannedCell, PlannedRow, PlanRecord, headline
from tests.analysis.conftest import SWEEP, Store


def runs(accuracies: dict[str, list[float | None]], mark: str, epochs: int = 60, **provenance: str) -> SweepRuns:
    """Rows with one accuracy a seed (None: has not run); cells are named by ``mark``, the row and the seed."""
    rows, frame = [], []
    for name, values in accuracies.items():
        cells = [PlannedCell(cell=f"{mark}-{name}-{seed}", seed=seed) for seed in range(len(values))]
        config: dict[str, Any] = {"training": {"epochs": epochs}, "method": {"name": name}}
        rows.append(PlannedRow(name=name, predict="single", changes={}, cells=cells, config=config))
        for cell, value in zip(cells, values, strict=True):
            if value is not None:
                frame.append(
                    {
                        "cell": cell.cell,
                        "status": "finished",
                        "error": "",
                        "recipes": {"loop": 1 if mark == "x" else 2},
                        "fingerprint": "f" * 40,
                        "params.training.epochs": str(epochs),
                        "params.seed": str(cell.seed),
                        headline("single"): value,
                    }
                )
    plan = PlanRecord(sweep="s", name="s", profile=None, question="", rows=rows, provenance=provenance)
    return SweepRuns(plan, None, pd.DataFrame(frame))


A = {"CE": [0.40, 0.41, 0.42], "BSCE": [0.50, 0.51, 0.52], "gone": [0.1]}


def test_the_same_cells_are_the_same() -> None:
    found = compare.build(runs(A, "x"), runs(A, "x"), ("A", "B"))
    assert [row.label for row in found.rows] == list(A)
    assert {cell.says for row in found.rows for cell in row.cells} == {"the same"}
    assert all(row.difference is None for row in found.rows) and found.ran == ()


def test_what_changed_is_named_and_by_how_much() -> None:
    b = {"CE": [0.45, 0.44, 0.46], "BSCE": [0.50, 0.51, 0.52], "new": [0.2]}
    found = compare.build(runs(A, "x", commit="1"), runs(b, "y", epochs=200, commit="2"), ("A", "B"))
    ce, _, gone, new = found.rows
    assert ce.cells[0].changed == ("recipe loop 1 → 2", "training.epochs 60 → 200")
    assert ce.difference is not None and ce.difference.significant
    assert ce.difference.mean == pytest.approx(statistics.mean([45, 44, 46]) - statistics.mean([40, 41, 42]))
    assert [cell.says for cell in gone.cells] == ["only in A"] and [cell.says for cell in new.cells] == ["only in B"]
    assert found.ran == (("commit", "1", "2"),)
    text = compare.render(found)
    assert "recipe loop 1 → 2, training.epochs 60 → 200" in text and "| commit" in text
    assert "Cells: 6 changed, 1 only in A, 1 only in B." in text


def test_one_id_and_other_numbers_is_said() -> None:
    """Something outside the configuration did it: other hardware, other libraries."""
    b = A | {"CE": [0.40, 0.41, 0.43]}
    found = compare.build(runs(A, "x"), runs(b, "x"), ("A", "B"))
    assert [cell.says for cell in found.rows[0].cells] == ["the same", "the same", "the same cell, other numbers"]
    assert found.rows[0].difference is not None and found.rows[1].difference is None
    assert "the same cell, other numbers (1 of 3 seeds)" in compare.render(found)


def test_what_has_not_run_is_said() -> None:
    found = compare.build(runs({"CE": [0.4, None]}, "x"), runs({"CE": [0.4, 0.5]}, "x"), ("A", "B"))
    assert [cell.says for cell in found.rows[0].cells] == ["the same", "the same cell; in A it has not run"]


def test_every_cell_is_in_the_data() -> None:
    lines = compare.to_csv(compare.build(runs(A, "x"), runs(A, "y", epochs=200), ("A", "B"))).splitlines()
    assert lines[0] == "row,seed,a,b,says,changed" and len(lines) == 1 + sum(map(len, A.values()))
    assert lines[1] == "CE,0,40,40,changed,recipe loop 1 → 2; training.epochs 60 → 200"


def test_from_the_command_line(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep against its export: nothing changed; printed, or written where it is asked for."""
    report.write_report(SWEEP, TrackingStore(store.uri), tmp_path, export=True)
    words = [
        "--tracking-uri",
        store.uri,
        "--storage",
        str(tmp_path / "none"),
        "--compare",
        SWEEP,
        str(tmp_path / "export.zip"),
    ]
    assert report.main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# {tmp_path / 'export.zip'} against {SWEEP}") and "other numbers" not in text
    assert report.main([*words, "--out", str(tmp_path / "found")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "found" / "compare.md")
    assert (tmp_path / "found" / "compare.csv").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--compare", "A", "B"], "'A'"),
        (["--compare", __file__, "B"], "not the export of a sweep"),
    ],
)
def test_what_is_not_there(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert report.main(["--tracking-uri", store.uri, "--storage", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err


def test_it_goes_with_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report.main(["--compare", "A", "B", "--all"])
    assert stopped.value.code == 2 and "does not go with" in capsys.readouterr().err
