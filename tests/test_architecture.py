"""The table of the house (docs/architecture.md), held by reading the imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# folder -> top-level packages that it never imports
NEVER = {
    "trainables": {"ray", "optuna", "mlflow", "ltsearch", "analysis"},
    "ltsearch": {"analysis"},
    "analysis": {"torch", "torchvision", "ray", "optuna"},
    "tools": {"ray", "optuna", "mlflow", "analysis"},
}
ANALYSIS_MAY_IMPORT = {"ltsearch.store.records", "ltsearch.store.cells", "trainables.errors", "trainables.files"}


# Rooms of a package in the order in which data goes through them: none imports from one after it.
ROOMS = {
    "ltsearch": [
        "store",
        "study",
        "plan",
        "search",
        "cluster",
        "run",
        "tracking",
        "show",
        "exit_codes",
        "preflight",
        "sweep",
        "join",
        "replay",
        "cli",
        "api",
    ],
    "analysis": [
        "statistics",
        "markdown",
        "read",
        "published",
        "tables",
        "figures",
        "page",
        "index",
        "objects",
        "compare",
        "report",
    ],
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("folder", NEVER)
def test_folders_import_only_what_they_may(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        wrong = {name for name in imports(file) if name.split(".")[0] in NEVER[folder]}
        assert not wrong, f"{file} imports {sorted(wrong)}"


def test_analysis_sees_records_only() -> None:
    for file in (ROOT / "analysis").rglob("*.py"):
        for name in imports(file):
            if name.split(".")[0] in ("ltsearch", "trainables") and name not in (
                "ltsearch",
                "ltsearch.store",
                "trainables",
            ):
                assert any(name == ok or name.startswith(f"{ok}.") for ok in ANALYSIS_MAY_IMPORT), f"{file}: {name}"


@pytest.mark.parametrize("package", ROOMS)
def test_no_arrow_runs_back(package: str) -> None:
    rooms = ROOMS[package]
    for file in (ROOT / package).rglob("*.py"):
        room = file.relative_to(ROOT / package).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in rooms, f"{file}: a room that the order of rooms lacks"
        for name in imports(file):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and parts[1] in rooms:
                assert rooms.index(parts[1]) <= rooms.index(room), f"{file} imports {name}, which comes after it"


def test_one_module_of_the_analysis_knows_mlflow() -> None:
    users = [f.name for f in (ROOT / "analysis").rglob("*.py") if any(n.split(".")[0] == "mlflow" for n in imports(f))]
    assert users == ["mlflow_store.py"]


def test_modules_stay_readable() -> None:
    sizes = {str(f): len(f.read_text().splitlines()) for folder in NEVER for f in (ROOT / folder).rglob("*.py")}
    assert not {f: n for f, n in sizes.items() if n > 400}


def test_every_folder_is_a_package() -> None:
    """The build finds packages by their ``__init__.py``: a method's folder without one would be missing from it."""
    for name in NEVER:
        for file in (ROOT / name).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), file.parent


@pytest.mark.parametrize(
    ("library", "only"),
    [("ray", "ltsearch/cluster/ray_internals.py"), ("optuna", "ltsearch/search/optuna_internals.py")],
)
def test_what_a_library_does_not_promise_is_used_in_one_module(library: str, only: str) -> None:
    private = re.compile(rf"\b{library}(\.\w+)*\.(_\w+|core\.generated)")
    users = [
        str(file.relative_to(ROOT))
        for folder in ("ltsearch", "trainables", "analysis", "tools")
        for file in sorted((ROOT / folder).rglob("*.py"))
        if private.search(file.read_text(encoding="utf-8"))
    ]
    assert users == [only]
