"""What every figure looks like: colours, markers, files."""

from __future__ import annotations

from pathlib import Path

from analysis.figures import (
    style,
)

# -- style -------------------------------------------------------------------------------------------------------------


def test_methods_have_their_colour_in_every_figure() -> None:
    plan = ["CE", "BIL", "other", "another", "NCL++", "NCL++ (ensemble)", "third"]
    assert style.colours(["CE"]) == {"CE": style.GREY} == style.colours(["CE"], plan)
    assert style.colours(["NCL++ (ensemble)"])["NCL++ (ensemble)"] == style.VERMILION
    assert style.colours(["BSCE"])["BSCE"] == style.colours(["BIL"])["BIL"] == style.BLUE
    whole = style.colours(plan, plan)
    for name in plan[:5]:
        assert style.colours(["third", name], plan)[name] == whole[name]
    assert len(set(style.colours(["BSCE", "NCL++", "a", "b", "c", "d", "e", "f"]).values())) == 8
    many = style.looks([f"row {i}" for i in range(10)])
    assert len({look.marker for look in many.values()}) == len({look.colour for look in many.values()}) == 10
    more = style.looks([f"row {i}" for i in range(30)])
    assert len({(look.colour, str(look.line)) for look in more.values()}) == 30


def test_a_method_looks_the_same_in_every_study() -> None:
    everything = style.looks(style.METHODS)
    assert len({(look.colour, look.marker) for look in everything.values()}) == len(style.METHODS)
    for study in (["CE", "a", "RIDE"], ["b", "RIDE", "c", "BSCE", "CE"], ["RIDE"]):
        found = style.looks(study, [*study, "d", "e"])
        assert all(found[name] == everything[name] for name in study if name in style.METHODS)
        assert len({(look.colour, look.marker, str(look.line)) for look in found.values()}) == len(study)
    assert style.looks(["NCL++ (ensemble)"])["NCL++ (ensemble)"] == everything["NCL++"]


def test_save_drops_a_picture_s_suffix_only(tmp_path: Path) -> None:
    for name in ("a.png", "b.svg", "beta_0.3"):
        style.save(style.figure(1, 1), tmp_path / name)
    stems = ("a", "b", "beta_0.3")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{s}.{kind}" for s in stems for kind in ("png", "svg"))
