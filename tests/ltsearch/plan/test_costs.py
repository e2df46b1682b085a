"""``--costs``: against the numbers that are printed, and against the data sets that it does not read."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from ltsearch.plan import costs
from ltsearch.sweep import main
from tests.ltsearch.helpers import study, write
from trainables.config import DataConfig
from trainables.data import read_source

STUDIES = Path(__file__).resolve().parents[3] / "search_spaces"
PRINTED = STUDIES.parent / "analysis" / "published" / "ncl_pp.csv"


def counted(text: str) -> dict[str, list[float]]:
    """Numbers by row."""
    lines = [line.rsplit(maxsplit=4) for line in text.splitlines()[3:]]
    return {line[0].strip(): [float(word) for word in line[1:]] for line in lines}


def test_table_5_without_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Within half a percent of print (which counts a little more than the products of convolutions and classifier)."""
    words = [str(STUDIES / "ncl_pp" / "table5_cost.yaml"), "--costs", "--data-root", str(tmp_path)]
    assert main(words) == 0
    found = counted(capsys.readouterr().out)
    with open(PRINTED, encoding="utf-8", newline="") as lines:
        printed = {(n["row"], n["metric"]): float(n["value"]) for n in csv.DictReader(lines) if n["table"] == "5"}
    assert found["NCL++"][1] == pytest.approx(printed["NCL++ (2 experts)", "test_gflops"], rel=0.006)
    assert found["NCL++"][2] == pytest.approx(printed["NCL++ (2 experts)", "train_gflops"], rel=0.008)
    assert found["NCL++ (ensemble)"][1] == found["NCL++"][2] == 2 * found["CE"][1]
    assert found["NCL"][2] == pytest.approx(3 * found["CE"][1], rel=1e-3)
    assert found["CE"][0] == pytest.approx(25.56)  # torchvision's ResNet-50


def test_equal_compute_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """The control of K experts and T copies costs what NCL++ costs, to the last digit."""
    assert main([str(STUDIES / "ncl_pp" / "table7_components.yaml"), "--costs"]) == 0
    found = counted(capsys.readouterr().out)
    assert found["control: BIL + NFL, K experts and T copies"] == found["NCL++"]


def test_a_data_set_of_one_s_own_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study()
    tree["base"]["data"] = {"name": "parquet", "path": "nowhere"}
    assert main([str(write(tmp_path, tree)), "--costs", "--data-root", str(tmp_path)]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_what_is_known_of_the_data_sets_is_true(tmp_path: Path) -> None:
    source = read_source(DataConfig(name="digits"), tmp_path)
    assert costs._KNOWN["digits"] == (len(source.class_names), source.train.images.shape[-1])
