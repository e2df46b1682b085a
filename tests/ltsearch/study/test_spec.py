"""Studies: reading, profiles, overrides, and one clear message for everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import search_cell
from ltsearch.study.overrides import merge, nest, parse_assignment
from ltsearch.study.seeds import seed_list
from ltsearch.study.space import Parameter
from ltsearch.study.spec import load
from ltsearch.study.tree import read_study
from ltsearch.study.yaml_file import read_yaml
from tests.ltsearch.helpers import ROOT, study, write
from tools.schema import PATH, schema, text
from trainables.errors import UserError


def plan(tmp_path: Path, tree: dict[str, Any], **options: Any) -> Any:
    return make_plan(load(write(tmp_path, tree), **options))


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"serch": {}}, "unknown key 'serch'; did you mean 'search'"),
        ({"search.trails": 3}, "unknown key 'search.trails'; did you mean 'trials'"),
        ({"base.method.betta": 0.3}, "unknown key 'method.betta'; did you mean 'beta'"),
        ({"base.model.backbone": "resnet33"}, "model.backbone = 'resnet33': did you mean 'resnet32'"),
        ({"base.data.name": "cifar"}, "data.name = 'cifar': did you mean 'cifar10'"),
        ({"base.method": {"name": "nclpp"}}, "unknown method 'nclpp'; known methods: ce, focal, class_balanced"),
        ({"base.method.beta": 1.5}, "method.beta = 1.5: input should be less than or equal to 1"),
        ({"base.augmentation.copies": 0}, "augmentation.copies = 0: input should be greater than or equal to 1"),
        ({"base.training.epochs": "many"}, "training.epochs = 'many': input should be a valid integer"),
        ({"base.seed": 3}, "base.seed: seeds are given by `seeds`"),
        ({"seeds": []}, r"seeds = \[\]"),
        ({"seeds": 0}, "seeds = 0"),
        ({"seeds": [1, 1]}, r"seeds = \[1, 1\]"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"search.space": {"method.betta": {"uniform": [0, 1]}}}, "no configuration key 'method.betta'"),
        ({"search.space": {"method.beta": {"uniform": [0.9, 0.1]}}}, r"low < high must hold, but got \[0.9, 0.1\]"),
        ({"search.space": {"method.beta": {"uniform": [0, 1.5]}}}, "method.beta = 1.5"),
        ({"search.space": {"method.beta": {"loguniform": [0, 1]}}}, "low > 0 must hold"),
        ({"search.space": {"method.beta": {"uniform": [0, 1], "int": [0, 1]}}}, "exactly one of"),
        ({"search.space": {"method.beta": {}}}, "exactly one of"),
        ({"search.space": {"x": {"uniform": [0, 1]}}}, "no configuration key 'x'"),
        ({"search.space": {"model.experts": {"uniform": [1, 3]}}}, r"search whole numbers with `int: \[low, high\]`"),
        ({"search.space": {"model.experts": {"uniform": [1, 3], "step": 0.5}}}, "experts = 1.5: .* with `int: "),
        ({"search.space": {"model.experts": {"loguniform": [1, 3]}}}, "search whole numbers with `int: "),
        (
            {"search.space": {"model.experts": {"int_": [1, 3]}}},
            "unknown key .*int_'; did you mean 'int'.*, int, choice",
        ),
        ({"search.wth": ["NFL"]}, "unknown key 'search.wth'; did you mean 'with'.* known: space, with, set"),
        (
            {"base.method": {"name": ["ncl_pp"]}},
            r"unknown method \['ncl_pp'\]; known methods: ce, focal, class_balanced",
        ),
        ({"base.method": {"name": {"a": 1}}}, "unknown method {'a': 1}; known methods: ce, focal, class_balanced"),
        ({"base.model.experts": True}, "base: model.experts: true does not go here"),
        ({"search.trials": True}, "search.trials: true does not go here"),
        ({"search.space": {"method.beta": {"uniform": [0, 1], "when": {"y": 1}}}}, "'y' is not a parameter"),
        (
            {
                "search.space": {
                    "a": {"choice": [1, 2], "keys": []},
                    "method.beta": {"uniform": [0, 1], "when": {"a": []}},
                }
            },
            "must be one of no values",
        ),
        (
            {"search.metrics": [{"name": "test/ensemble_top1"}]},
            "a search never sees the test set; use val/ensemble_top1",
        ),
        ({"seeds": [0, 3_000_000_000]}, "different seeds >= 0 and < 2"),
        ({"search.metrics": [{"name": "val/top1"}]}, "name = 'val/top1': did you mean"),
        ({"search.sampler": "bayes"}, "search.sampler = 'bayes'"),
        (
            {"search.metrics": [{"name": "val/single_top1"}, {"name": "seconds", "mode": "min"}]},
            "early_stopping works on one metric",
        ),
        ({"search.confirm.seeds": [1000]}, "winners need fresh seeds"),
        ({"search.with": ["NFLL"]}, "no component 'NFLL'; did you mean 'NFL'"),
        ({"ablation.rows": [{"name": "x", "with": ["NF"]}]}, "no component 'NF'; did you mean 'NFL'"),
        ({"ablation.reference": "nothing"}, "ablation.reference = 'nothing': no such row"),
        ({"ablation.designs": ["add_two"]}, "did you mean 'add_one_in'"),
        ({"resources.workers": 0}, "resources.workers = 0"),
    ],
)
def test_bad_studies(tmp_path: Path, over: dict[str, Any], message: str) -> None:
    tree = study()
    for key, value in over.items():
        if key in ("search.space", "search.metrics", "base.method"):  # replaced, not merged
            head, tail = key.split(".")
            tree[head][tail] = value
        else:
            tree = merge(tree, nest({key: value}))
    with pytest.raises(UserError, match=message) as error:
        plan(tmp_path, tree)
    assert "study.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1, 2", r"study.yaml, line 1, column \d+: not YAML"),
        ("- 1\n- 2", "a study is a mapping .* not list"),
        ("name: a\nname: b", "key 'name' is given twice"),
        ("name: x\nbase: 3", "base = 3"),
        ("name: x", "needs an `ablation`, a `search` or both"),
        ("name: {{ name }}", r"line 1, column 8: not YAML: {'name': None} cannot be a key"),
        ("name: x\n[a, b]: 1", r"line 2, column 1: not YAML: \['a', 'b'\] cannot be a key"),
        ("name: x\nbase:\n  ? {a: 1}\n  : 2", "line 3, column 5: not YAML: {'a': 1} cannot be a key"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "study.yaml")
    with pytest.raises(UserError, match="other.yaml: no such file"):
        load(tmp_path / "other.yaml")


def test_profiles_and_overrides(tmp_path: Path) -> None:
    tree = study(profiles={"quick": {"base.training.epochs": 2, "seeds": 1, "search": {"trials": 3}}})
    path = write(tmp_path, tree)
    quick = load(path, "quick")
    assert (quick.sweep, quick.spec.search.trials, quick.spec.seeds) == ("synthetic@quick", 3, 1)
    assert make_plan(quick).rows[0].cells[0].config.training.epochs == 2
    assert load(path).spec.search.trials == 8
    over = load(
        path, "quick", [parse_assignment("search.trials=5"), parse_assignment("base.training.epochs=4")], [3, 4]
    )
    assert over.spec.search.trials == 5 and over.spec.seeds == [3, 4]
    assert make_plan(over).rows[0].cells[1].config.training.epochs == 4
    with pytest.raises(UserError, match="--profile 'slow': no such profile; known: quick"):
        load(path, "slow")
    with pytest.raises(UserError, match="must be key=value"):
        parse_assignment("search.trials")


def test_whole_numbers_may_be_searched_in_whole_steps(tmp_path: Path) -> None:
    tree = study()
    tree["search"]["space"] = {"model.experts": {"uniform": [1, 3], "step": 1}}
    made = plan(tmp_path, tree)
    assert search_cell(made, {"model.experts": 3.0}).config.model.experts == 3


@pytest.mark.parametrize(
    "profile",
    [
        {"search.space.method.beta": {"uniform": [0, 0.5]}},
        {"search.space": {"method.beta": {"uniform": [0, 0.5]}}},
        {"search": {"space.method.beta": {"uniform": [0, 0.5]}}},
        {"search": {"space": {"method.beta": {"uniform": [0, 0.5]}}}},
        None,  # by --set
    ],
)
def test_one_parameter_of_a_space_is_replaced_whole(tmp_path: Path, profile: dict[str, Any] | None) -> None:
    tree = study()
    tree["search"]["space"]["method.beta"] = {"loguniform": [0.1, 1]}  # nothing of it must be left
    plain = load(write(tmp_path, tree)).spec
    if profile is None:
        over = load(write(tmp_path, tree), None, [parse_assignment("search.space.method.beta={uniform: [0, 0.5]}")])
    else:
        tree["profiles"] = {"narrow": profile}
        over = load(write(tmp_path, tree), "narrow")
    space = over.spec.search.space
    assert space == plain.search.space | {"method.beta": Parameter(uniform=(0, 0.5))}
    assert over.spec.search.model_copy(update={"space": plain.search.space}) == plain.search


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"serch.trials": 3}, "profiles.slow: unknown key 'serch'; did you mean 'search'"),
        ({"search": {"trails": 3}}, "profiles.slow: unknown key 'search.trails'; did you mean 'trials'"),
        ({"base.method.beta": 1.5}, "profiles.slow: base: method.beta = 1.5"),
        ({"base": {"method": {"beta": 1.5}}}, "profiles.slow: base: method.beta = 1.5"),
    ],
)
def test_a_profile_that_does_not_run_is_checked_too(tmp_path: Path, profile: dict[str, Any], message: str) -> None:
    tree = {**study(), "profiles": {"quick": {"seeds": 1}, "slow": profile}}
    for name in (None, "quick"):
        with pytest.raises(UserError, match=message):
            load(write(tmp_path, tree), name)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("x", "seeds = 'x': must be a valid integer or a valid list or a mapping"),
        (3.5, "seeds = 3.5: must be a valid integer or a valid list or a mapping"),
        (True, "seeds: true does not go here"),
        (["a"], "seeds.0 = 'a': input should be a valid integer, unable to parse string as an integer"),
        ({"min": 3}, "seeds.until is missing"),
    ],
)
def test_of_a_value_of_several_kinds_one_line_is_told(tmp_path: Path, seeds: Any, message: str) -> None:
    path = write(tmp_path, {**study(), "seeds": seeds})
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value) == f"{path}: {message}"


def test_numbers_in_scientific_notation(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1e-4\nb: 5E3\nc: 1.5e2\nd: e5\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1e-4, "b": 5e3, "c": 150.0, "d": "e5"}


def test_seed_lists() -> None:
    assert seed_list(3) == [0, 1, 2]
    assert seed_list([7, 3]) == [7, 3]


def test_merging_another_method_drops_the_options_of_the_first() -> None:
    base = nest({"method.name": "ncl_pp", "method.beta": 0.5, "model.experts": 2})
    assert merge(base, {"method": {"name": "ce"}}) == {"method": {"name": "ce"}, "model": {"experts": 2}}
    assert merge(base, nest({"method.beta": 0.1}))["method"] == {"name": "ncl_pp", "beta": 0.1}
    assert base["method"]["beta"] == 0.5


def test_schema_is_current_and_takes_the_studies() -> None:
    assert PATH.read_text(encoding="utf-8") == text(), "run `make schema`"
    validator = jsonschema.Draft202012Validator(schema())
    for path in STUDIES:
        errors = list(validator.iter_errors(json.loads(json.dumps(read_yaml(path)))))
        assert not errors, (path, errors[0].message)
    wrong = json.loads(json.dumps(study(**{"search.trials": "many"})))
    assert list(validator.iter_errors(wrong))


STUDIES = sorted(p for p in (ROOT / "search_spaces").rglob("*.yaml") if p.parent.name != "shared")


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.stem)
def test_every_study_and_profile_makes_a_plan(path: Path) -> None:
    profiles = read_study(path).get("profiles") or {}
    for profile in [None, *profiles]:
        made = make_plan(load(path, profile))
        assert made.rows or made.search_base


def test_the_reference_is_current() -> None:
    from tools import reference

    page = reference.PATH.read_text(encoding="utf-8")
    assert page == reference.updated(page), "run `make schema`"


def test_the_cluster_file_is_valid_for_ray() -> None:
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    config["head_setup_comands"] = []
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config))


def test_extends(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    parent = study(profiles={"tiny": {"base.training.epochs": 2}})
    del parent["name"]
    write(tmp_path / "shared", parent, "base.yaml")
    child = {
        "extends": "shared/base.yaml",
        "name": "child",
        "base": {"method.beta": 0.7},
        "profiles": {"tiny": {"base": {"training": {"batch_size": 16}}}},
    }
    path = write(tmp_path, child)
    plain = make_plan(load(path))
    assert plain.loaded.sweep == "child" and plain.rows[0].cells[0].config.method.beta == 0.7
    tiny = make_plan(load(path, "tiny")).rows[0].cells[0].config.training
    assert (tiny.epochs, tiny.batch_size) == (2, 16)  # both files' profiles, put together
    (tmp_path / "a.yaml").write_text("extends: b.yaml\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="the files extend each other"):
        load(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: none.yaml\nname: a\n")
    with pytest.raises(UserError, match="none.yaml: no such file"):
        load(tmp_path / "c.yaml")


def test_cells_of_the_paper_studies_are_shared_with_the_cifar10_study() -> None:
    """What ran for one study is not run again for another."""
    folder = ROOT / "search_spaces"
    table = make_plan(load(folder / "ncl_pp" / "table7_components.yaml", "tiny"))
    cifar10 = make_plan(load(folder / "cifar10_lt.yaml", "tiny"))
    assert {c.id for c in table.cells} < {c.id for c in cifar10.cells}
