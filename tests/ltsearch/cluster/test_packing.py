"""What a laptop sends to a cluster."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from ltsearch.cluster.packing import packed, tree_files
from ltsearch.study.spec import load
from tests.ltsearch.helpers import ROOT, study, write
from trainables.errors import UserError


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")


def test_the_tree_is_what_git_knows_without_data_results_and_secrets(tmp_path: Path) -> None:
    put(
        tmp_path,
        "ltsearch/a.py",
        "data/x.bin",
        "store/cells/c/record.json",
        "mlflow.db",
        "trainables/data/b.py",
        ".venv/p",
    )
    assert tree_files(tmp_path) == ["ltsearch/a.py", "trainables/data/b.py"]  # without git
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    put(tmp_path, ".gitignore", "notes.docx", "mine/method.py", "mine/study.yaml", "photo.png", "keys/site.pem")
    put(tmp_path, ".env", ".env.local", "aws_credentials.json", "id_ed25519", ".ray/auth_token")
    (tmp_path / ".gitignore").write_text("*.bin\n")
    put(tmp_path, "ltsearch/weights.bin")
    new = ["ltsearch/a.py", "mine/method.py", "mine/study.yaml", "trainables/data/b.py"]
    assert tree_files(tmp_path) == new  # what git does not know yet: code and studies only
    subprocess.run(["git", "-C", str(tmp_path), "add", "-A", "."], check=True)
    assert tree_files(tmp_path) == sorted([".gitignore", "notes.docx", "photo.png", *new])  # and secrets never


def test_the_same_tree_is_the_same_bytes(tmp_path: Path) -> None:
    """So that nothing is sent twice."""
    outside = write(tmp_path, study(), "mine.yaml")
    with packed(ROOT / "search_spaces" / "digits_lt.yaml") as tree:
        first = tree.file.read_bytes()
        assert tree.spec == "search_spaces/digits_lt.yaml" and len(first) < 4_000_000
        with zipfile.ZipFile(tree.file) as archive:
            assert len(archive.read(".commit").decode().split(" ")[0]) == 12
            assert {"ltsearch/sweep.py", "constraints.txt"} <= set(archive.namelist())
    with packed(ROOT / "search_spaces" / "digits_lt.yaml") as tree:
        assert tree.file.read_bytes() == first
    with packed(outside) as tree:
        assert tree.file.read_bytes() != first and tree.spec == "specs/mine.yaml"


def test_a_study_outside_brings_what_it_extends(tmp_path: Path) -> None:
    """Also by a path that leads nowhere on the head; a text that looks like a number stays a text."""
    (tmp_path / "common").mkdir()
    write(tmp_path / "common", study(), "base.yaml")
    mine = tmp_path / "mine.yaml"
    mine.write_text('extends: common/base.yaml\nname: mine\nquestion: "1e-4"\n')
    with packed(mine) as tree, zipfile.ZipFile(tree.file) as archive:
        archive.extract("specs/mine.yaml", tmp_path / "head")
    sent = load(tmp_path / "head" / "specs" / "mine.yaml").spec
    assert sent == load(mine).spec.model_copy(update={"extends": None}) and sent.question == "1e-4"


def test_a_study_is_sent_under_the_name_that_it_was_given(tmp_path: Path) -> None:
    with packed(ROOT / "search_spaces" / "digits_lt.yaml", "other") as tree, zipfile.ZipFile(tree.file) as archive:
        archive.extract(tree.spec, tmp_path)
    assert load(tmp_path / tree.spec).spec.name == "other"


def test_what_git_cannot_tell_is_not_sent(tmp_path: Path) -> None:
    put(tmp_path, "a.py", "data.bin", ".git/HEAD")  # no repository
    with pytest.raises(UserError, match="what is to be sent cannot be told from what is not: fatal: "):
        tree_files(tmp_path)
