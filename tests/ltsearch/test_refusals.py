"""What was found only after training, was written outside its folder or gave wrong numbers: refused in the plan."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ltsearch import cli
from ltsearch.cluster import ray_cluster
from ltsearch.plan.layout import make_plan
from ltsearch.study.space import Parameter, check_space
from ltsearch.study.spec import load
from ltsearch.sweep import main
from tests.ltsearch.helpers import study, write
from trainables.errors import UserError


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("LTSEARCH_DATA", str(tmp_path / "data"))


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """``--plan`` and the sweep itself say the same, once, and write nothing."""
    before = set(Path.cwd().parent.rglob("*"))
    told = []
    for more in ([], ["--plan"]):
        assert main([*words, *more]) == 2
        shown = capsys.readouterr()
        assert shown.err.startswith("error: ") and "Traceback" not in shown.err + shown.out
        told.append(shown.err)
    assert set(Path.cwd().parent.rglob("*")) == before
    assert told[0] == told[1]
    return told[0]


# -- names that become folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../../x", "", "a/b", "a b", ".hidden", "x" * 101, "naïve", "a\n"])
def test_profiles_are_called_as_studies_are(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, study(profiles={name: {"seeds": 1}}) | {"profiles": {name: {"seeds": 1}}}))
    for words in ([path, "--profile", name], [path]):
        told = refused(capsys, *words)
        assert (
            f"study.yaml: profiles.{name!r}: results, search and locks lie in folders of this name: use letters" in told
        )
    assert cli.main(["status", path, "--profile", name]) == 2


def test_an_empty_profile_is_none_of_the_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path, study(**{"profiles.tiny": {"seeds": 1}})))
    assert "--profile '': no such profile; known: tiny" in refused(capsys, path, "--profile", "")


def test_names_have_a_length(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "at most 100 characters" in refused(capsys, str(write(tmp_path, study(name="x" * 101))))
    make_plan(load(write(tmp_path, study(name="x" * 100, **{f"profiles.{'y' * 100}": {"seeds": 1}})), "y" * 100))


# -- where results are kept ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("sqlite:///:memory:", "a database in memory, or none: it would be gone with the sweep, before the report"),
        ("sqlite://", "a database in memory, or none"),
        ("sqlite:///", "a database in memory, or none"),
        ("sqlite:///a?b/mlflow.db", "'?' in {here}/a?b/mlflow.db: MLflow takes it for a part of an address"),
        ("sqlite:///runs#1.db", "'#' in {here}/runs#1.db: MLflow takes it for a part of an address"),
        ("sqlite:///a%41/mlflow.db", "'%41' in {here}/a%41/mlflow.db"),
        ("./a#b", "'#' in {here}/a#b"),
    ],
)
def test_tracking_stores_that_could_not_be_found_again(
    uri: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path, study()))
    said = said.format(here=tmp_path)
    assert f"tracking server {uri}: {said}" in refused(capsys, path, "--tracking-uri", uri)
    assert said in refused(capsys, path, "--set", f"tracking.uri='{uri}'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert said in refused(capsys, path)


def test_a_working_directory_that_mlflow_could_not_find_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run #1").mkdir()
    monkeypatch.chdir(tmp_path / "run #1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert f"'#' in {tmp_path}/run #1/mlflow.db" in refused(capsys, str(write(tmp_path, study())))


def test_texts_with_a_nul(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study.yaml"
    good = write(tmp_path, study()).read_text()
    path.write_text(good + 'report: {folder: "a\\0b"}\n')
    said = "holds a NUL, or a character that UTF-8 does not have; leave it out"
    assert f"study.yaml: report.folder = 'a\\x00b': {said}" in refused(capsys, str(path))
    path.write_text(good + 'report: {notes: "\\uD83D"}\n')
    assert f"study.yaml: report.notes = '\\ud83d': {said}" in refused(capsys, str(path))
    path.write_text(good)
    assert said in refused(capsys, str(path), "--set", 'report.folder="a\\0b"')


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system takes no such names")
@pytest.mark.parametrize("option", ["--storage", "--data-root", "--tracking-uri", "--set", "cwd"])
def test_folders_whose_names_are_not_utf8(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = str(write(tmp_path, study())), os.fsdecode(b"caf\xe9")
    shown = r"caf\xe9"
    if option == "cwd":
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        told = refused(capsys, path)
        assert "the working directory b'" in told
    else:
        words = {"--set": f"report.folder={name}", "--tracking-uri": f"sqlite:///{name}/mlflow.db"}
        told = refused(capsys, path, option, words.get(option, name))
    assert shown in told and "not UTF-8" in told and ("rename" in told or "name another" in told)
    shutil.rmtree(tmp_path / name, ignore_errors=True)


def test_an_environment_that_is_not_utf8(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write(tmp_path, study()))
    for name, said in (
        ("LTSEARCH_STORAGE", "--storage"),
        ("LTSEARCH_DATA", "--data-root"),
        ("MLFLOW_TRACKING_URI", ""),
    ):
        monkeypatch.setenv(name, os.fsdecode(b"/tmp/caf\xe9"))
        told = refused(capsys, path)
        assert said in told and "not UTF-8" in told
        monkeypatch.delenv(name)


# -- numbers ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            {"base.training.batch_size": 10**30},
            "training.batch_size: 1e+30 is out of range: whole numbers go up to 9007199254740992 (2^53)",
        ),
        ({"base.training.epochs": 10**30}, "training.epochs: 1e+30 is out of range"),
        ({"base.augmentation.cutout": 10**30}, "augmentation.cutout: 1e+30 is out of range"),
        (
            {"base.optimizer.lr": 1e308},
            "optimizer.lr: 1e+308 is out of range: numbers go up to 1e+30, which single precision still holds",
        ),
        ({"base.method.lambda_intra": 1e300}, "lambda_intra: 1e+300 is out of range"),
        ({"base.schedule.milestones": [10**30]}, "schedule.milestones: 1e+30 is out of range"),
        ({"search.trials": 10**30}, "should be less than or equal to 1000000"),
        ({"resources.workers": 10**30}, "resources.workers: 1e+30 is out of range"),
        ({"seeds": 10**12}, "seeds = 1000000000000: at most 1000"),
        ({"seeds": {"min": 2, "max": 10**9, "until": {"ci_halfwidth": 1}}}, "less than or equal to 1000"),
        ({"search.confirm.seeds": 10**12}, "seeds = 1000000000000: at most 1000"),
    ],
)
def test_numbers_that_nothing_has_room_for(
    over: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, str(write(tmp_path, study(**over))))


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"int": [0, 10**30]}, "int: 1e+30 is out of range, ±9.01e+15"),
        ({"uniform": [0, 1e308]}, "uniform: 1e+308 is out of range, ±1e+30"),
        ({"loguniform": [1e-3, 1e200]}, "loguniform: 1e+200 is out of range, ±1e+30"),
    ],
)
def test_bounds_that_nothing_has_room_for(
    parameter: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = study()
    tree["search"]["space"] = {"optimizer.lr": parameter}
    assert said in refused(capsys, str(write(tmp_path, tree)))


def test_long_ranges_are_as_good_as_continuous() -> None:
    assert Parameter.model_validate({"int": [0, 10**12]}).values() is None
    assert Parameter.model_validate({"uniform": [0, 1], "step": 1e-9}).values() is None
    assert Parameter.model_validate({"int": [2, 4]}).values() == [2, 3, 4]


def test_more_rows_than_anyone_waits_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study()
    tree["ablation"] = {"components": {f"c{i}": {"seed": i} for i in range(40)}, "designs": ["factorial"]}
    assert "the designs and the grid make 1.1e+12 rows, at most 10000 are planned" in refused(
        capsys, str(write(tmp_path, tree))
    )
    tree["ablation"] = {"grid": {"axes": {"method.beta": [i / 9999 for i in range(5000)]}}}
    tree["seeds"] = 100
    assert "5000 rows with 100 seeds each: at most 100000 cells" in refused(capsys, str(write(tmp_path, tree)))


# -- rows ------------------------------------------------------------------------------------------------------------------


def test_two_rows_with_the_same_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study()
    tree["ablation"] = {
        "components": tree["ablation"]["components"],
        "rows": [{"name": "ours", "with": ["NFL"]}, {"name": "theirs", "set": {"method.nfl": True}}],
    }
    told = refused(capsys, str(write(tmp_path, tree)))
    assert (
        "study.yaml: ablation.rows: 'ours' and 'theirs' have the same configuration, so that one of them would not be shown; "
        "remove one, change what it sets, or let it `predict` the other of single and ensemble" in told
    )
    tree["ablation"]["rows"][1]["predict"] = "ensemble"
    assert [row.name for row in make_plan(load(write(tmp_path, tree))).rows] == ["ours", "theirs"]


def test_a_component_that_changes_nothing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study()
    tree["ablation"]["components"]["Nothing"] = {"method.nfl": False}
    assert main([str(write(tmp_path, tree)), "--plan"]) == 0
    assert "the same configuration, and so the same row: base + Nothing" in capsys.readouterr().out
    plan = make_plan(load(write(tmp_path, tree)))
    assert [row.record().also for row in plan.rows] == [["base + Nothing"], [], []]
    tree = study()
    tree["ablation"] |= {"designs": ["add_one_in", "leave_one_out"]}  # what a design makes again is no news
    assert not any(row.also for row in make_plan(load(write(tmp_path, tree))).rows)


def test_rows_that_are_the_same_in_one_setting_are_told(tmp_path: Path) -> None:
    tree = study()
    tree["ablation"] = {
        "settings": {"two": {"model.experts": 2}, "one": {"model.experts": 1}},
        "rows": [{"name": "a"}, {"name": "b", "set": {"model.experts": 1}}],
    }
    plan = make_plan(load(write(tmp_path, tree)))
    assert [(row.setting, row.name, row.also) for row in plan.rows] == [
        ("two", "a", ()),
        ("two", "b", ()),
        ("one", "a", ("b",)),
    ]


# -- the search space ------------------------------------------------------------------------------------------------------


def test_two_parameters_that_set_one_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study()
    tree["search"]["space"] = {
        "method.lambda_inter": {"uniform": [0, 1]},
        "both": {"uniform": [0, 1], "keys": ["method.lambda_intra", "method.lambda_inter"]},
    }
    assert (
        "search.space: 'method.lambda_inter' and 'both' both set 'method.lambda_inter', and one would win in silence; drop one"
        ", or give them conditions (`when`) that exclude each other" in refused(capsys, str(write(tmp_path, tree)))
    )


def test_parameters_that_exclude_each_other_may_set_one_key() -> None:
    def of(**over: Any) -> Parameter:
        return Parameter.model_validate({"uniform": [0, 1], "keys": ["optimizer.lr"], **over})

    switch = Parameter.model_validate({"choice": ["a", "b", "c"], "keys": []})
    below = Parameter.model_validate({"choice": ["x", "y"], "keys": [], "when": {"switch": "a"}})
    check_space({"switch": switch, "low": of(when={"switch": "a"}), "high": of(when={"switch": ["b", "c"]})})
    check_space({"switch": switch, "below": below, "low": of(when={"below": "x"}), "high": of(when={"switch": "b"})})
    with pytest.raises(ValueError, match="'low' and 'high' both set 'optimizer.lr'"):
        check_space({"switch": switch, "low": of(when={"switch": ["a", "b"]}), "high": of(when={"switch": "b"})})


def test_a_space_without_a_valid_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every value is fine with the base, and none with those of the other."""
    tree = study(**{"base.training.epochs": 300, "base.schedule.warmup_epochs": 5})
    tree["search"]["space"] = {
        "training.epochs": {"choice": [10, 20]},
        "schedule.warmup_epochs": {"choice": [20, 30]},
    }
    told = refused(capsys, str(write(tmp_path, tree)))
    assert "search.space: no combination of its values is valid, of up to 300 tried; the last, {" in told
    assert "schedule.warmup_epochs = 30 must be < training.epochs = 20" in told
    tree["search"]["space"]["schedule.warmup_epochs"] = {"choice": [15, 30]}  # 15 of 20
    make_plan(load(write(tmp_path, tree)))


# -- figures ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            {"figures": [{"kind": "curve", "x": "method.betta"}]},
            "report.figures[0].x = 'method.betta': no row has a number under this key; did you mean 'method.beta'?",
        ),
        ({"figures": [{"kind": "curve", "x": "method.name"}]}, "no row has a number under this key"),
        (
            {"figures": [{"kind": "bars"}, {"kind": "tsne", "seed": 7}]},
            "report.figures[1].seed = 7: no row has that seed; seeds: 0, 1",
        ),
        (
            {"paired_tests": [{"row": "base", "reference": "base + NFL", "seed": 2}]},
            "report.paired_tests[0].seed = 2: no row has that seed; seeds: 0, 1",
        ),
    ],
)
def test_figures_over_what_no_row_has(
    report: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, str(write(tmp_path, study() | {"report": report})))


def test_figures_of_a_study_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = study() | {"report": {"figures": [{"kind": "bars"}]}}
    del tree["ablation"]
    told = refused(capsys, str(write(tmp_path, tree)))
    assert "report.figures[0]: shows rows of an ablation, and this study has none; leave it out" in told


# -- a cluster that nobody asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "{a: [",
        "just text",
        "- a list",
        "",
        "cluster_name: x\nprovider: 3\n",
        "cluster_name: x\nprovider: {type: [1]}\n",
        "cluster_name: x\nprovider: [1]\n",
        "cluster_name: 2026-99-99\nprovider: {type: local}\n",
        "cluster_name: x\nprovider: {type: banana}\n",
        "[" * 5000,
    ],
)
def test_a_broken_cluster_file_ends_nothing(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_text(content)
    assert main([str(write(tmp_path, study())), "--plan"]) == 0
    said = capsys.readouterr().err
    assert said == "" or said.startswith("cluster.yaml: not the file of a Ray cluster (")
    with pytest.raises(UserError, match="--cluster cluster.yaml: "):
        ray_cluster.elsewhere("cluster.yaml", None, False)


def test_a_cluster_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cluster.yaml").write_bytes(b"\xff\xfe")
    assert main([str(write(tmp_path, study())), "--plan"]) == 0
    assert "cluster.yaml: not the file of a Ray cluster" in capsys.readouterr().err
    (tmp_path / "cluster.yaml").unlink()
    (tmp_path / "cluster.yaml").mkdir()
    assert main([str(tmp_path / "study.yaml"), "--plan"]) == 0
