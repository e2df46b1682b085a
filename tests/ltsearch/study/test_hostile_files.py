"""What unfolds, never ends, or is no file: refused in a moment, in one line that names it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.search.journal import FILE
from ltsearch.store import locks
from ltsearch.store.cells import CellStore
from ltsearch.study.options import Choice
from ltsearch.study.overrides import parse_assignment
from ltsearch.study.spec import load
from tests.ltsearch.helpers import record, study, write
from trainables.errors import UserError


def refusal(act: Any, *given: Any) -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as refused:
        act(*given)
    assert time.monotonic() - begun < 20 and "\n" not in str(refused.value)
    return str(refused.value)


def file(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def bomb(levels: int) -> str:
    """Nine times nine times …"""
    names = [chr(97 + i) for i in range(levels)]
    lines = [f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{before}'] * 9)}]" for before, n in zip(names, names[1:], strict=False)]
    return "\n".join(lines) + "\n"


def merges(levels: int) -> str:
    lines = ["m0: &m0 {x: 1}"]
    lines += [f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}, *m{i - 1}], y{i}: 1}}" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (bomb(10), "with its aliases and merges written out it has more than 200000 values"),
        (merges(30), "with its aliases and merges written out it has more than 200000 values"),
        ("a: &a [*a]\n", "an alias inside of what it stands for"),
        ("name: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("seeds: " + "9" * 6000, "a number of 6000 characters"),
        ("seeds: 1" + ":1" * 5000, "a number of 10001 characters"),
        ("a: &a " + "x" * 20000 + "\nb: [" + "*a, " * 2000 + "]", "with its aliases and merges written out"),
        ("question: 2024-02-30", "day is out of range for month"),
        ("name: \x00", "special characters are not allowed"),
        ("x" * (5 * 2**20), "longer than 4 MiB"),
    ],
)
def test_yaml_that_unfolds_or_is_none(tmp_path: Path, text: str, says: str) -> None:
    said = refusal(load, file(tmp_path, text))
    assert str(tmp_path / "study.yaml") in said and says in said


def test_an_alias_or_a_merge_of_reasonable_size_is_what_it_stands_for(tmp_path: Path) -> None:
    tree = study()
    text = yaml.safe_dump(tree, sort_keys=False).replace("base:", "base: &b", 1)
    text += "profiles:\n  again: {base: *b}\n  more: {base: {<<: *b, training: {epochs: 3}}}\n"
    assert load(file(tmp_path, text), "again").spec.base == load(write(tmp_path, tree)).spec.base
    assert load(file(tmp_path, text), "more").spec.base["training"]["epochs"] == 3


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_a_study_that_extends_files_without_end(tmp_path: Path, shape: str) -> None:
    last = 300 if shape == "chain" else 25
    for i in range(last):
        one = f"s{i + 1}.yaml"
        (tmp_path / f"s{i}.yaml").write_text(f"extends: {one if shape == 'chain' else [one, one]}\n")
    write(tmp_path, study(), f"s{last}.yaml")
    (tmp_path / "self.yaml").symlink_to(tmp_path / "self.yaml")
    (tmp_path / "link.yaml").write_text("extends: self.yaml\n")
    assert "extends = 'self.yaml': cannot be found" in refusal(load, tmp_path / "link.yaml")
    assert f"{tmp_path}/s0.yaml: extends more than 100 files" in refusal(load, tmp_path / "s0.yaml")


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    assert "fifo.yaml: cannot be read (not a file, but a FIFO)" in refusal(load, tmp_path / "fifo.yaml")
    assert "/dev/zero: cannot be read (not a file, but a device)" in refusal(load, Path("/dev/zero"))
    assert "cannot be read (Is a directory)" in refusal(load, tmp_path)
    (tmp_path / "a.yaml").symlink_to(tmp_path / "b.yaml")
    (tmp_path / "b.yaml").symlink_to(tmp_path / "a.yaml")
    assert "Too many levels of symbolic links" in refusal(load, tmp_path / "a.yaml")


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_no_files_in_the_place_of_a_stores_files(tmp_path: Path, kind: str) -> None:
    """A record is set aside and named, a lock that cannot be is nobody's, a journal is refused."""
    make = os.mkfifo if kind == "fifo" else os.mkdir
    store, cell = CellStore(tmp_path / "store"), record().cell
    (store.folder(cell)).mkdir(parents=True)
    make(store.folder(cell) / "record.json")
    assert store.read(cell) is None and ("FIFO" if kind == "fifo" else "directory") in store.bad[cell]

    plan = make_plan(load(write(tmp_path, study())))
    folder = store.sweep_folder("synthetic")
    folder.mkdir(parents=True)
    make(folder / FILE)
    work = outstanding.Work(None, [], {}, lambda record: False, False)
    assert "optuna.journal: not a file: the search cannot go on with it" in refusal(
        outstanding.begin, plan, work, store, tmp_path, print
    )
    if kind == "fifo":
        make(folder / "lock")
        assert locks.holder(folder) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seeds=" + "9" * 5000, "a number of 5000 characters"),
        ("question=&a [*a]", "an alias inside of what it stands for"),
        ("question=[", "not YAML"),
        ("profiles.x={}", "profiles are chosen by --profile"),
        ("extends=x.yaml", "what a study extends stands in its file"),
    ],
)
def test_words_of_the_command_line(text: str, says: str) -> None:
    said = refusal(parse_assignment, text)
    assert says in said and said.startswith("--set ") and len(said) < 400


def test_numbers_of_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, study())
    for number, shown in ((0, "0"), (10**6, "1e+06"), (10**400, "a number of hundreds of digits")):
        said = refusal(Choice(path, max_concurrent=number).load)
        assert said == f"--max-concurrent {shown}: must be >= 1 and at most 100000"


@pytest.mark.parametrize(
    ("over", "says"),
    [
        ({"search.confirm": {"top_k": 99, "seeds": 2}}, "confirm.top_k = 99 is more than the 8 trials"),
        ({"search.trials": 10**12}, "search.trials"),
        (
            {"report.paired_tests": [{"row": "base", "reference": "base"}]},
            "row and reference are both 'base': name two",
        ),
        ({"report.claims": [{"row": "base", "reference": "base"}]}, "row and reference are both 'base': name two"),
    ],
)
def test_what_a_study_cannot_mean(tmp_path: Path, over: dict[str, Any], says: str) -> None:
    assert says in refusal(load, write(tmp_path, study(**over)))
