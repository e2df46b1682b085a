"""From a spec to cells: the grammar, and ids that change with numbers and with nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import confirm_cells, search_cell
from ltsearch.store import ids as cells_module
from ltsearch.store.ids import cell_id, identity
from ltsearch.study.space import Parameter, combinations
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study, write
from trainables.config import TrialConfig
from trainables.errors import UserError


def rows(tmp_path: Path, ablation: dict[str, Any]) -> dict[str, Any]:
    tree = study()
    del tree["search"]
    tree["ablation"] = {"components": tree["ablation"]["components"] | {"IntraCL": {"method.intra": True}}, **ablation}
    return {row.name: row for row in make_plan(load(write(tmp_path, tree))).rows}


def test_grammar(tmp_path: Path) -> None:
    assert list(rows(tmp_path, {"designs": ["add_one_in"]})) == [
        "base",
        "base + NFL",
        "base + InterCL",
        "base + IntraCL",
    ]
    assert list(rows(tmp_path, {"designs": ["leave_one_out"]})) == [
        "all",
        "all − NFL",
        "all − InterCL",
        "all − IntraCL",
    ]
    cumulative = rows(tmp_path, {"designs": ["cumulative"]})
    assert list(cumulative) == ["base", "base + NFL", "base + NFL + InterCL", "base + NFL + InterCL + IntraCL"]
    assert len(rows(tmp_path, {"designs": ["factorial"]})) == 8
    both = rows(tmp_path, {"designs": ["add_one_in", "factorial"]})
    assert len(both) == 8  # what a design repeats is there once
    grid = rows(tmp_path, {"grid": {"axes": {"method.beta": [0.1, 0.3], "model.experts": [1, 2]}, "with": ["NFL"]}})
    assert list(grid) == [
        "beta = 0.1, experts = 1",
        "beta = 0.1, experts = 2",
        "beta = 0.3, experts = 1",
        "beta = 0.3, experts = 2",
    ]
    assert grid["beta = 0.1, experts = 2"].cells[0].config.method.nfl
    assert cumulative["base + NFL"].changes == {"method.nfl": True}


def test_rows_share_seeds_and_cells(tmp_path: Path) -> None:
    tree = study(seeds=[4, 7])
    tree["ablation"]["rows"] = [
        {"name": "one", "with": ["InterCL"]},
        {"name": "one (ensemble)", "with": ["InterCL"], "predict": "ensemble"},
    ]
    plan = make_plan(load(write(tmp_path, tree)))
    named = {row.name: row for row in plan.rows}
    assert [c.seed for c in named["one"].cells] == [4, 7]
    assert [c.id for c in named["one"].cells] == [c.id for c in named["one (ensemble)"].cells]
    assert len(plan.cells) == len({c.id for c in plan.cells}) == 6
    assert [c.seed for c in plan.cells[:3]] == [4, 4, 4]  # every row has its first seed before any has its second


def test_ids_follow_what_decides_numbers() -> None:
    config = TrialConfig.model_validate({"method": {"name": "ncl_pp"}})
    same = [
        {"evaluation": {"every": 3}},
        {"method": {"name": "ncl_pp", "beta": 0.3}},  # the default, written out
        {"optimizer": {"lr": 0.1}},
    ]
    for over in same:
        assert cell_id(TrialConfig.model_validate({"method": {"name": "ncl_pp"}, **over})) == cell_id(config), over
    others = [
        {"seed": 1},
        {"method": {"name": "ncl_pp", "beta": 0.31}},
        {"method": {"name": "bsce"}},
        {"training": {"precision": "bf16"}},
        {"data": {"imbalance": {"subset_seed": 1}}},
    ]
    ids = [cell_id(TrialConfig.model_validate({"method": {"name": "ncl_pp"}, **over})) for over in others]
    assert len({cell_id(config), *ids}) == 1 + len(others)


def test_a_recipe_version_changes_the_ids_of_what_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.methods.bsce.options import BSCEOptions

    names = ("ncl_pp", "bsce", "offline_distillation")
    ncl, bsce, student = (TrialConfig.model_validate({"method": {"name": name}}) for name in names)
    before = cell_id(ncl), cell_id(bsce), cell_id(student)
    monkeypatch.setattr(BSCEOptions, "recipe", 2)
    assert cell_id(ncl) == before[0] and cell_id(bsce) != before[1]
    assert cell_id(student) != before[2]  # its teachers are other ones then
    monkeypatch.setitem(cells_module.RECIPES, "loop", 99)
    assert cell_id(ncl) != before[0]


def test_identity_is_stable() -> None:
    """Ids of cells that ran must not move: this one is written down."""
    config = TrialConfig.model_validate(
        {"data": {"name": "digits"}, "method": {"name": "ncl_pp", "beta": 0.5}, "seed": 2}
    )
    assert identity(config) == {
        "config": {"data": {"name": "digits"}, "method": {"name": "ncl_pp", "beta": 0.5}, "seed": 2},
        "recipes": {"data": 1, "augmentation": 1, "model": 1, "loop": 2, "method.ncl_pp": 1},
    }
    assert cell_id(config) == "0252a1c00e5f4212"


def test_search_and_confirm_cells(tmp_path: Path) -> None:
    plan = make_plan(load(write(tmp_path, study())))
    chosen = {"method.beta": 0.25, "method.lambda_inter": 0.5}
    cell = search_cell(plan, chosen)
    assert cell.config.data.val_per_class == 5 and cell.config.evaluation.every == 1 and not cell.keep_final
    assert cell.config.method.beta == 0.25
    confirmed = confirm_cells(plan, chosen)
    assert [c.seed for c in confirmed] == [0, 1]
    assert all(
        c.config.data.val_per_class == 0 and c.config.evaluation.every is None and c.keep_final for c in confirmed
    )
    assert cell.seed not in [c.seed for c in confirmed]


def test_combinations_of_a_conditional_space() -> None:
    space = {
        "a": Parameter(choice=["x", "y"]),
        "b": Parameter(**{"int": [1, 3], "when": {"a": "x"}}),
        "c": Parameter(uniform=(0, 1), step=0.5, when={"b": [2, 3]}),
    }
    got = combinations(space)
    assert got is not None
    # a = y: 1; a = x, b = 1: 1; a = x, b = 2 or 3: 3 values of c each
    assert len(got) == 1 + 1 + 6
    assert {"a": "y"} in got and {"a": "x", "b": 1} in got
    assert combinations({"a": Parameter(uniform=(0, 1))}) is None


# -- settings, the studied axis, teachers ------------------------------------------------------------------------------


def settings_study(**over: Any) -> dict[str, Any]:
    tree = study(**over)
    del tree["search"]
    tree["ablation"] |= {
        "settings": {"IF 10": {"data.imbalance.factor": 10}, "IF 5": {"data.imbalance.factor": 5}, "off": None},
        "rows": [{"name": "CE", "set": {"method": {"name": "ce"}}}],
        "designs": [],
        "reference": "CE",
    }
    return tree


def test_every_setting_has_all_rows(tmp_path: Path) -> None:
    tree = settings_study()
    tree["ablation"]["rows"].append({"name": "own", "set": {"data.imbalance.factor": 2}})
    plan = make_plan(load(write(tmp_path, tree)))
    assert [(r.setting, r.name) for r in plan.rows] == [(s, n) for s in ("IF 10", "IF 5") for n in ("CE", "own")]
    assert [r.cells[0].config.data.imbalance.factor for r in plan.rows] == [10, 2, 5, 2]  # a row's own keys come last
    assert plan.rows[0].label == "CE (IF 10)" and plan.rows[2].record().label == "CE (IF 5)"
    assert plan.rows[0].beyond == {} and plan.rows[1].beyond == {"data.imbalance.factor": 2.0}
    assert plan.rows[1].cells[0].id == plan.rows[3].cells[0].id and len(plan.cells) == 3 * 2


def test_rows_that_differ_in_more_than_the_studied_axis_are_flagged(tmp_path: Path) -> None:
    made = rows(
        tmp_path,
        {
            "rows": [
                {"name": "base"},
                {"name": "method", "with": ["InterCL"], "set": {"augmentation.copies": 2, "method.beta": 0.5}},
                {"name": "longer", "set": {"training.epochs": 10, "optimizer.lr": 0.2}},
                {"name": "other", "set": {"method": {"name": "ce"}, "augmentation.policy": "rand"}},
            ],
            "reference": "base",
        },
    )
    assert {name: row.beyond for name, row in made.items()} == {
        "base": {},
        "method": {},
        "longer": {"training.epochs": 10, "optimizer.lr": 0.2},
        "other": {"augmentation.policy": "rand"},
    }
    grid = rows(tmp_path, {"grid": {"axes": {"optimizer.lr": [0.1, 0.2]}}})
    assert all(not row.beyond for row in grid.values())  # what a grid varies is studied
    axis = rows(tmp_path, {"rows": [{"name": "a"}, {"name": "b", "set": {"method.beta": 0.5}}], "axis": ["model"]})
    assert axis["b"].beyond == {"method.beta": 0.5}


def test_which_rows_are_nothing_but_components(tmp_path: Path) -> None:
    made = rows(tmp_path, {"designs": ["factorial"], "rows": [{"name": "CE", "set": {"method": {"name": "ce"}}}]})
    assert made["base + NFL"].pure and made["base + NFL"].components == ("NFL",)
    assert not made["CE"].pure


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"figures": [{"kind": "bars", "rows": ["BSCE"]}]}, r"report.figures\[0\]: no row 'BSCE'; rows: CE"),
        ({"figures": [{"kind": "bars", "setting": "x"}]}, r"setting = 'x': settings: IF 10, IF 5"),
        ({"figures": [{"kind": "curve"}]}, "names the key `x` of its axis"),
        ({"figures": [{"kind": "pie"}]}, "kind"),
        ({"paired_tests": [{"row": "CE", "reference": "x"}]}, r"report.paired_tests\[0\]: no row 'x'"),
        ({"claims": [{"row": "x", "reference": "CE"}]}, r"report.claims\[0\]: no row 'x'"),
        (
            {"claims": [{"row": "CE", "reference": "BIL", "setting": "s"}]},
            r"report.claims\[0\].setting = 's': settings: IF 10, IF 5",
        ),
    ],
)
def test_a_report_can_only_show_what_there_is(tmp_path: Path, report: dict[str, Any], message: str) -> None:
    tree = {**settings_study(), "report": report}
    tree["ablation"]["rows"].append({"name": "BIL", "set": {"method": {"name": "bsce"}}})
    with pytest.raises(UserError, match=message):
        make_plan(load(write(tmp_path, tree)))


def test_teachers_come_first_and_once(tmp_path: Path) -> None:
    offline = {"name": "offline_distillation", "number": 2}
    made = rows(
        tmp_path,
        {
            "rows": [
                {"name": "a", "set": {"method": offline}},
                {"name": "b", "set": {"method": offline | {"weight": 1.0}}},
            ]
        },
    )
    (one, two), other = made["a"].cells, made["b"].cells[0]
    assert [t.seed for t in one.requires] == [1_000_000, 1_000_001] and two.requires[0].seed == 1_000_002
    assert one.requires == other.requires and one.id != other.id
    assert {t.config.method.name for t in one.requires} == {"bsce"}
    tree = study()
    del tree["search"]
    tree["ablation"] = {"rows": [{"name": "a", "set": {"method": offline}}]}
    plan = make_plan(load(write(tmp_path, tree)))
    order = [c.id for c in plan.cells]
    assert order == [*(t.id for t in one.requires), one.id, *(t.id for t in two.requires), two.id]
    assert plan.rows[0].record().requires == [t.id for c in plan.rows[0].cells for t in c.requires]


def test_a_switch_sets_no_key(tmp_path: Path) -> None:
    tree = study()
    tree["search"]["space"] = {
        "weights": {"choice": ["tied", "separate"], "keys": []},
        "λ": {"uniform": [0, 1], "keys": ["method.lambda_inter", "method.lambda_intra"], "when": {"weights": "tied"}},
        "method.lambda_inter": {"uniform": [0, 1], "when": {"weights": "separate"}},
    }
    plan = make_plan(load(write(tmp_path, tree)))
    tied = search_cell(plan, {"weights": "tied", "λ": 0.25}).config.method
    assert (tied.lambda_inter, tied.lambda_intra) == (0.25, 0.25)
    separate = search_cell(plan, {"weights": "separate", "method.lambda_inter": 0.75}).config.method
    assert (separate.lambda_inter, separate.lambda_intra) == (0.75, 0.6)


def test_the_reference_stays_where_another_row_is_the_same(tmp_path: Path) -> None:
    tree = settings_study()
    tree["ablation"] |= {
        "settings": {"s1": {"model.experts": 2}, "s2": {"model.experts": 1}},
        "rows": [{"name": "a"}, {"name": "b", "set": {"model.experts": 1}}],
        "reference": "b",
    }
    plan = make_plan(load(write(tmp_path, tree)))
    assert [(r.setting, r.name) for r in plan.rows] == [("s1", "a"), ("s1", "b"), ("s2", "b")]
