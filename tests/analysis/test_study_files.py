"""Study files as a report reads them: what a parent says, what a child and a profile override, and what is no study."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import report
from analysis.read import study_files
from analysis.read.study_files import Study
from tests.analysis.conftest import Store
from trainables.errors import UserError


def write(folder: Path, **files: str) -> Path:
    """Files by name without ``.yaml``; ``__`` is a folder. Returns the first."""
    paths = [folder / f"{name.replace('__', '/')}.yaml" for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths[0]


def test_a_parent_says_what_the_child_leaves_open(tmp_path: Path) -> None:
    """Relative to the file, over two folders and three levels; the last of several parents and the child are on top."""
    child = write(
        tmp_path,
        studies__child="extends: [../shared/a.yaml, ../shared/b.yaml]\nname: child\nreport.folder: of the child\n",
        shared__a="extends: deeper/c.yaml\nname: a\nreport: {folder: a, title: A}\ntracking.uri: of a\n",
        shared__b="tracking: {uri: of b}\nprofiles: {p: {report.folder: of p}}\n",
        shared__deeper__c="tracking: {uri: of c, experiment: E}\nquestion: Why?\n",
    )
    tree = study_files.read(child)
    option = study_files.options(tree, None)
    assert (tree["name"], tree["question"]) == ("child", "Why?")
    assert (option("report", "folder"), option("report", "title")) == ("of the child", "A")
    assert (option("tracking", "uri"), option("tracking", "experiment")) == ("of b", "E")
    assert study_files.options(tree, "p")("report", "folder") == "of p"
    assert study_files.options(tree, "p")("tracking", "uri") == "of b"


@pytest.mark.parametrize(
    ("over", "under"), [("report.folder: x", "report: {folder: y}"), ("report: {folder: x}", "report.folder: y")]
)
def test_dotted_and_nested_override_each_other(over: str, under: str, tmp_path: Path) -> None:
    child = write(tmp_path, child=f"extends: parent.yaml\nname: c\n{over}\n", parent=f"{under}\n")
    assert study_files.options(study_files.read(child), None)("report", "folder") == "x"


def test_the_name_may_be_a_parent_s(tmp_path: Path) -> None:
    child = write(tmp_path, child="extends: parent.yaml\n", parent="name: of the parent\n")
    assert study_files.read(child)["name"] == "of the parent"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"a": "extends: b.yaml\nname: a\n", "b": "extends: a.yaml\n"},
            r"b\.yaml: extends = 'a\.yaml': the files extend each other",
        ),
        ({"a": "extends: a.yaml\nname: a\n"}, r"a\.yaml: extends = 'a\.yaml': the files extend each other"),
        ({"a": "extends: {b: c}\nname: a\n"}, "must be a file name or a list of them"),
        ({"a": "extends: none.yaml\nname: a\n"}, r"none\.yaml: cannot be read"),
        ({"a": "extends: b.yaml\nname: a\n", "b": "- 1\n"}, r"b\.yaml: not a study"),
        ({"a": "question: no name\n"}, r"a\.yaml: not a study: a mapping with a `name`"),
    ],
)
def test_what_cannot_be_read(files: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        study_files.read(write(tmp_path, **files))


def test_a_file_that_two_parents_extend_is_no_circle(tmp_path: Path) -> None:
    child = write(
        tmp_path,
        child="extends: [b.yaml, c.yaml]\nname: a\n",
        b="extends: d.yaml\n",
        c="extends: d.yaml\n",
        d="question: d\n",
    )
    assert study_files.read(child)["question"] == "d"


def test_studies_of_a_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        b="name: second\nquestion: Why?\nprofiles: {paper: {}, tiny: {}}\n",
        a__deep="extends: ../shared.yaml\nname: first\n",
        shared="question: Of both?\n",
        broken="name: [\n",
    )
    (tmp_path / "README.md").write_text("name: none\n")
    first, second, broken = study_files.find(tmp_path)
    assert first == Study(tmp_path / "a/deep.yaml", "first", "Of both?")
    assert second == Study(tmp_path / "b.yaml", "second", "Why?", ("paper", "tiny"))
    assert broken.name == "" and "not YAML" in broken.error
    with pytest.raises(UserError, match="no such folder of studies"):
        study_files.find(tmp_path / "none")


@pytest.fixture(scope="module")
def index(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All reports of the store, beside studies of which one has run under a profile."""
    folder = tmp_path_factory.mktemp("all")
    studies = folder / "studies"
    write(
        studies,
        ran="name: study\n",
        waiting="name: waiting\nquestion: Does a | b?\nprofiles: {paper: {}, tiny: {}}\n",
        shared="question: a part\n",
    )
    (studies / "broken.yaml").write_text("name: [\n")
    arguments = ["--all", "--tracking-uri", store.uri, "--out", str(folder / "out"), "--studies", str(studies)]
    assert report.main(arguments) == 0
    return folder / "out" / "index.md"


def lines(index: Path) -> dict[str, list[str]]:
    """Cells of the table, by the first one without its link."""
    rows = [line for line in index.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in row.replace("\\|", "¦").strip("|").split(" | ")] for row in rows]
    return {row[0].partition("]")[0].lstrip("["): row for row in cells}


def test_the_index_links_what_has_a_report(index: Path) -> None:
    row = lines(index)["study@small"]
    assert row[0] == "[study@small](study@small/report.md)" and (index.parent / "study@small/report.md").is_file()
    assert row[1:3] == ["Which part of NCL++ matters?", "16/18 cells, 8 trials, 4/4 confirmations"]
    # 54.03 of the ensemble's three seeds, +13.03 to CE's 41: differences 13, 13, 13.1.
    assert (
        row[3].startswith("best NCL++ (ensemble), 54.03 ± 1.00 %, +13.03 [")
        and "5 of 8 trials ran to the end" in row[3]
    )


def test_the_index_keeps_what_failed(index: Path) -> None:
    found = lines(index)
    assert found["failed"][2:] == [
        "no report",
        "sweep 'failed': none of its trials has finished (1 failed); nothing to report",
    ]
    assert "no report" in found["earlier"] and not (index.parent / "failed").exists()


def test_the_index_lists_what_never_ran(index: Path) -> None:
    found = lines(index)
    studies = index.parent.parent / "studies"
    command = f"`python -m ltsearch.sweep {(studies / 'waiting.yaml').as_posix()}` (profiles: paper, tiny)"
    assert found["waiting"] == ["waiting", "Does a ¦ b?", "not run", command]
    assert "cannot be read" in found[(studies / "broken.yaml").as_posix()]
    assert "study" not in found  # it ran as study@small
    assert set(found) == {"study@small", "earlier", "failed", "waiting", (studies / "broken.yaml").as_posix()}


def test_the_default_folder_of_studies(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--all", "--tracking-uri", store.uri]
    assert report.main(arguments) == 0
    assert "not run" not in (tmp_path / "results/index.md").read_text(encoding="utf-8")
    write(tmp_path / "search_spaces", waiting="name: waiting\n")
    assert report.main(arguments) == 0
    assert "`python -m ltsearch.sweep search_spaces/waiting.yaml`" in (tmp_path / "results/index.md").read_text(
        encoding="utf-8"
    )


def test_bad_folders_of_studies(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--all", "--tracking-uri", store.uri, "--out", str(tmp_path / "out")]
    assert report.main([*arguments, "--studies", str(tmp_path / "none")]) == 2
    assert "no such folder of studies" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        report.main(["study.yaml", "--studies", "."])
    assert "--studies goes with --all" in capsys.readouterr().err
