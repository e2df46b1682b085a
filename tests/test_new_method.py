"""A new method is one folder and one line: specs, plans, schema, tables and the conformance suite then have it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.ltsearch.helpers import environment

ROOT = Path(__file__).resolve().parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPTIONS = '''"""Options of the toy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainables.methods.options import MethodOptions


class ToyOptions(MethodOptions):
    """Cross-entropy of logits that are divided by a temperature."""

    name: Literal["toy"] = "toy"
    temperature: float = Field(1.0, gt=0, description="of the logits")
'''
METHOD = '''"""The toy."""

from __future__ import annotations

from torch import Tensor

from trainables.losses import collaborative
from trainables.methods.base import Batch, Method
from trainables.methods.targets import targets_and_weight
from trainables.methods.toy.options import ToyOptions


class Toy(Method[ToyOptions]):
    """``CE(z / temperature)``."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss."""
        targets, weight = targets_and_weight(batch)
        return {"loss": collaborative.bil(batch.logits / self.options.temperature, targets, weight)}
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree with the method."""
    copy = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "results")
    for folder in ("trainables", "ltsearch", "analysis", "tools", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    folder = copy / "trainables" / "methods" / "toy"
    folder.mkdir()
    for name, text in (("__init__", '"""The toy."""\n'), ("options", OPTIONS), ("method", METHOD)):
        (folder / f"{name}.py").write_text(text)
    catalogue = copy / "trainables" / "methods" / "__init__.py"
    line = '    "ce": _entry("ce", "CE"),\n'
    assert line in catalogue.read_text()
    catalogue.write_text(catalogue.read_text().replace(line, line + '    "toy": _entry("toy", "Toy"),\n'))
    (copy / "docs" / "methods" / "toy.md").write_text("# Toy\n\n`toy`: see its code.\n")
    return copy


def run(tree: Path, folder: Path, *words: str) -> str:
    """A command of the copy."""
    env = {**environment(folder), "PYTHONPATH": str(tree)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_schema_and_reference_have_it(tree: Path, tmp_path: Path) -> None:
    run(tree, tmp_path, "-m", "tools.schema")
    schema = json.loads((tree / "docs" / "sweep.schema.json").read_text())
    assert schema["$defs"]["ToyOptions"]["properties"]["temperature"]["exclusiveMinimum"] == 0
    reference = (tree / "docs" / "studies.md").read_text()
    assert (
        "`method`, `name: toy`" in reference and "| `temperature` | number, > 0 | `1.0` | of the logits |" in reference
    )


def test_a_study_trains_it_and_its_table_shows_it(tree: Path, tmp_path: Path) -> None:
    study = {
        "name": "toys",
        "question": "Does a new method train?",
        "base": {
            "data": {"name": "digits", "imbalance": {"factor": 10}, "data_ratio": 0.25},
            "model": {"backbone": "resnet8"},
            "method": {"name": "ce"},
            "training": {"epochs": 1, "batch_size": 32},
        },
        "seeds": 1,
        "ablation": {
            "reference": "CE",
            "rows": [{"name": "CE"}, {"name": "Toy", "set": {"method": {"name": "toy", "temperature": 2.0}}}],
        },
    }
    (tmp_path / "toys.yaml").write_text(yaml.safe_dump(study))
    assert "Toy" in run(tree, tmp_path, "-m", "ltsearch.sweep", "toys.yaml", "--plan")
    run(tree, tmp_path, "-m", "ltsearch.sweep", "toys.yaml", "--local")
    assert "| Toy |" in (tmp_path / "results" / "toys" / "report.md").read_text()
    records = [json.loads(path.read_text()) for path in (tmp_path / "store" / "cells").glob("*/record.json")]
    (toy,) = [record for record in records if record["config"]["method"]["name"] == "toy"]
    assert toy["status"] == "finished" and toy["recipes"]["method.toy"] == 1


def test_the_conformance_suite_takes_it_in(tree: Path) -> None:
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/trainables/test_methods.py"]
    words += ["-k", "toy", "-m", "slow or not slow"]
    assert " passed" in run(tree, tree, *words)
