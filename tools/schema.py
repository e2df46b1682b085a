"""``python -m tools.schema``: write the JSON Schema of studies, for editors, and the tables of ``docs/studies.md``.

``base`` and the overrides that rows, components and profiles make are shown as trial configurations; dotted keys are allowed
everywhere a nested mapping is, so unknown keys are left to ``python -m ltsearch.sweep --plan`` to refuse.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from ltsearch.study.spec import SweepSpec
from tools import reference
from trainables.config import TrialConfig
from trainables.methods import METHODS, options_class

PATH = Path(__file__).resolve().parent.parent / "docs" / "sweep.schema.json"


def schema() -> dict[str, Any]:
    """The schema as plain JSON values."""
    methods = [options_class(name) for name in METHODS]
    models = [(model, "validation") for model in (SweepSpec, TrialConfig, *methods)]
    refs, definitions = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    defs = definitions["$defs"]
    trial = defs["TrialConfig"]
    trial["properties"]["method"] = {"anyOf": [refs[(m, "validation")] for m in methods]}
    # Overrides are partial: nothing is required, and dotted keys stand beside the nested ones.
    for name in ("TrialConfig", *_sections(trial, defs), *(m.__name__ for m in methods)):
        defs[name].pop("required", None)
        defs[name]["additionalProperties"] = True
    override = {"$ref": "#/$defs/TrialConfig"}
    sweep = defs.pop("SweepSpec")
    sweep["properties"]["base"] |= override
    held = sweep["properties"]["resources"]
    held["anyOf"] = [{"$ref": held.pop("$ref")}, {"const": "auto"}]
    for owner, key in (("Row", "set"), ("Grid", "set"), ("Search", "set")):
        defs[owner]["properties"][key] |= override
    defs["Search"].pop("required", None)  # an extended file may have what is missing here
    for key in ("components", "settings"):  # null drops one
        defs["Ablation"]["properties"][key]["additionalProperties"] = {"anyOf": [override, {"type": "null"}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study of ltsearch",
        **{key: value for key, value in sweep.items() if key != "title"},
        "$defs": defs,
    }


def _sections(trial: dict[str, Any], defs: dict[str, Any]) -> list[str]:
    """Names of the models that a trial configuration consists of."""
    found: list[str] = []
    text = json.dumps(trial)
    for name in defs:
        if f'"#/$defs/{name}"' in text and name not in found:
            found += [name, *_sections(defs[name], defs)]
    return found


def text() -> str:
    """What stands in ``docs/sweep.schema.json``."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
    reference.PATH.write_text(reference.updated(reference.PATH.read_text(encoding="utf-8")), encoding="utf-8")
    print(PATH, reference.PATH, sep="\n")
    sys.exit(0)
