"""Random studies, data files and stores: one message or a result, never a traceback, and nothing written where it should not.

The examples are the same in every run. ``LTSEARCH_FUZZ=20`` tries twenty times as many others.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ltsearch import cli
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.run.outstanding import forget
from ltsearch.run.queue import Queue
from ltsearch.search import journal
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.show import status
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from ltsearch.sweep import main
from tests.ltsearch.helpers import study, write
from trainables.config import DataConfig, TrialConfig
from trainables.data import read_source
from trainables.data.longtail import check_batches, split
from trainables.errors import DataError, UserError

MORE = int(os.environ.get("LTSEARCH_FUZZ", "0"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """So many examples: the same ones in every run, unless more are asked for."""
    return settings(
        max_examples=examples * max(MORE, 1),
        derandomize=not MORE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


WORDS = st.sampled_from(
    [
        "",
        "x",
        "a.b",
        "../../x",
        "/",
        "~",
        "\0",
        "\ud800",
        "null",
        "1e5",
        "base",
        "name",
        "seed",
        "digits",
        "é",
        "x" * 300,
    ]
)
NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1e308, float("nan"), float("inf")])
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3), max_leaves=5
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a tree, by the keys that lead there."""
    if path:
        yield path
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield from places(tree[key], (*path, key))


def changed(data: st.DataObject, tree: Any) -> Any:
    """A tree with one place replaced, removed, renamed, or given a neighbour."""
    tree = copy.deepcopy(tree)
    found = list(places(tree))
    if not found:  # all of it was removed before
        return tree
    path = data.draw(st.sampled_from(found))
    node = tree
    for key in path[:-1]:
        node = node[key]
    match data.draw(st.sampled_from(["replace", "replace", "remove", "rename", "add"])):
        case "replace":
            node[path[-1]] = data.draw(JUNK)
        case "remove":
            del node[path[-1]]
        case "rename" if isinstance(node, dict):
            node[data.draw(WORDS)] = node.pop(path[-1])
        case _ if isinstance(node, dict):
            node[data.draw(WORDS)] = data.draw(JUNK)
        case _:
            node.append(data.draw(JUNK))
    return tree


def torn(data: st.DataObject, content: bytes) -> bytes:
    """Bytes of which some are cut out or put in."""
    at = data.draw(st.integers(0, len(content)))
    return content[:at] + data.draw(st.binary(max_size=4)) + content[at + data.draw(st.integers(0, 8)) :]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A working directory inside of another, so that what is written outside of it is seen."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "deep" / "er"
        folder.mkdir(parents=True)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def everything(folder: Path) -> dict[str, bytes | None]:
    """All that lies in the folder around a scratch one."""
    around = folder.parent.parent
    return {str(p): p.read_bytes() if p.is_file() else None for p in around.rglob("*")}


def run(command: Callable[[list[str]], int], *words: str) -> tuple[int, str]:
    """A command's exit code and what it said."""
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")  # as standard output
    failed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")  # and standard error
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(failed):
        code = command(list(words))
    for stream in (said, failed):
        stream.flush()
    text = failed.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert "Traceback" not in text
    assert (code == 2) == text.startswith("error: "), (code, text)
    return code, text


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LTSEARCH_STORAGE", "LTSEARCH_DATA", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


# -- studies ---------------------------------------------------------------------------------------------------------------


def whole() -> dict[str, Any]:
    """A study that uses what there is."""
    tree = study(seeds=[0, 1])
    tree["ablation"] |= {
        "rows": [{"name": "both", "with": ["NFL", "InterCL"], "set": {"method.beta": 0.2}, "predict": "ensemble"}],
        "grid": {"axes": {"method.beta": [0.1, 0.4]}, "with": ["NFL"]},
        "settings": {"IF 10": {"data.imbalance.factor": 10}, "IF 5": {"data.imbalance.factor": 5}},
    }
    tree["search"]["space"] |= {
        "kind": {"choice": ["a", "b"], "keys": []},
        "optimizer.lr": {"loguniform": [0.01, 0.1], "when": {"kind": "a"}},
        "model.experts": {"int": [1, 3], "when": {"kind": ["b"]}},
    }
    tree["report"] = {
        "title": "t",
        "folder": "results",
        "figures": [{"kind": "curve", "x": "method.beta", "rows": ["both"]}, {"kind": "tsne", "seed": 1}],
        "paired_tests": [{"row": "both", "reference": "base"}],
        "claims": [{"row": "both", "reference": "base", "metric": "few", "at_least": 0.5}],
    }
    tree["profiles"] = {"tiny": {"seeds": 1, "base.training.epochs": 2}, "other": {"search.trials": 3}}
    tree["resources"] = {"workers": 1, "cpus_per_worker": 1}
    tree["tracking"] = {"experiment": "x"}
    return tree


@fuzz(90)
@given(data=st.data())
def test_studies(data: st.DataObject) -> None:
    tree = whole()
    for _ in range(data.draw(st.integers(1, 3))):
        tree = changed(data, tree)
        if not tree:
            return
    content = yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "backslashreplace")
    if data.draw(st.integers(0, 9)) == 0:
        content = torn(data, content)
    profile = data.draw(st.sampled_from([None, None, "tiny", "", "../../x"]))
    with scratch() as folder:
        (folder / "study.yaml").write_bytes(content)
        before = everything(folder)
        run(main, "study.yaml", "--plan", *([f"--profile={profile}"] if profile is not None else []))
        assert everything(folder) == before


@fuzz(30)
@given(
    key=WORDS, value=JUNK, option=st.sampled_from(["--set", "--seeds", "--storage", "--data-root", "--tracking-uri"])
)
def test_words_of_the_command_line(key: str, value: Any, option: str) -> None:
    text = value if isinstance(value, str) else yaml.safe_dump(value).strip()
    with scratch() as folder:
        write(folder, whole())
        before = everything(folder)
        run(main, "study.yaml", "--plan", f"{option}={f'{key}={text}' if option == '--set' else text}")
        assert everything(folder) == before


# -- data ------------------------------------------------------------------------------------------------------------------


def picture(mode: str, kind: str, size: tuple[int, int]) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind)
    return out.getvalue()


PICTURES = st.one_of(
    st.just(picture("RGB", "PNG", (4, 4))),
    st.sampled_from(
        [
            picture("L", "PNG", (4, 4)),
            picture("I;16", "PNG", (4, 4)),
            picture("F", "TIFF", (4, 4)),
            picture("P", "GIF", (4, 4)),
            picture("CMYK", "JPEG", (4, 4)),
            picture("RGB", "PNG", (5, 4)),
            b"",
        ]
    ),
    st.binary(max_size=8),
)


def read(config: DataConfig, root: Path) -> None:
    """Read and drawn from, or refused."""
    try:
        source = read_source(config, root)
        for part in (source.train, source.test):
            assert part.images.dtype == np.uint8 and len(part.images) == len(part.labels)
        trial = TrialConfig.model_validate({"data": config.model_dump(), "training": {"batch_size": 2}})
        check_batches(trial, split(config, source))
    except DataError as error:
        assert str(error)


NAMES = st.one_of(
    JUNK,
    st.lists(st.sampled_from(["a", "b", "\ud800"]), max_size=3),
    st.dictionaries(st.sampled_from(["0", "1", "2", "x"]), st.sampled_from(["a", "b"]), max_size=3),
)


@fuzz(80)
@given(data=st.data())
def test_parquet_files(data: st.DataObject) -> None:
    with scratch() as folder:
        (folder / "set").mkdir()
        for part in ("train", "test", "validation"):
            images = data.draw(st.lists(PICTURES, min_size=0 if part == "validation" else 1, max_size=3))
            labels = data.draw(st.lists(st.integers(-1, 2) | st.none(), min_size=len(images), max_size=len(images)))
            kind = data.draw(st.sampled_from([pa.int64(), pa.int8(), pa.string(), pa.float64()]))
            column: Any = images if data.draw(st.booleans()) else [{"bytes": image, "path": None} for image in images]
            texts = [None if label is None else str(label) for label in labels]
            table = pa.table({"image": column, "label": pa.array(texts if kind == pa.string() else labels, kind)})
            features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": data.draw(NAMES)}}
            info = data.draw(st.sampled_from([{"info": {"features": features}}, {"info": 3}, [], None]))
            if info is not None:
                table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
            file = folder / "set" / f"{part}.parquet"
            pq.write_table(table, file)
            if data.draw(st.integers(0, 9)) == 0:
                file.write_bytes(torn(data, file.read_bytes()))
        read(DataConfig(name="parquet", path="set", image_size=data.draw(st.sampled_from([None, 4]))), folder)


@fuzz(50)
@given(data=st.data())
def test_image_folders(data: st.DataObject) -> None:
    with scratch() as folder:
        for part in ("train", "test", "val"):
            for name in data.draw(st.lists(st.sampled_from([b"a", b"b", b"caf\xe9", b".x"]), max_size=2, unique=True)):
                place = folder / "set" / part / os.fsdecode(name)
                place.mkdir(parents=True)
                for number, content in enumerate(data.draw(st.lists(PICTURES, min_size=1, max_size=2))):
                    (place / f"{number}.png").write_bytes(content)
        read(DataConfig(name="folder", path="set"), folder)


@fuzz(50)
@given(data=st.data())
def test_lists(data: st.DataObject) -> None:
    lines = st.sampled_from(
        [b"a.png 0", b"a.png 1", b"b.png 0", b"../../a.png 0", b"a.png", b"a.png -1", b"a.png 9" * 4, b"\xff"]
    )
    with scratch() as folder:
        (folder / "places_lt").mkdir()
        (folder / "places_lt" / "a.png").write_bytes(data.draw(PICTURES))
        for part in ("train", "val", "test"):
            content = b"\n".join(data.draw(st.lists(lines, min_size=1, max_size=3)))
            (folder / "places_lt" / f"Places_LT_{part}.txt").write_bytes(content)
        read(DataConfig(name="places_lt", image_size=4), folder)


# -- stores ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has run in part."""
    folder = tmp_path_factory.mktemp("used")
    plan, store = the_plan(folder, new=True)
    for number, cell in enumerate(plan.cells):
        history = [Epoch(epoch=e, metrics={"test/single_top1": 0.5, "seconds": 1.0}) for e in (1, 2)]
        config = cell.config.model_dump(mode="json")
        how = (Status.FINISHED, Status.RUNNING, Status.DIVERGED)[number % 3]
        store.write(CellRecord(cell=cell.id, config=config, recipes={}, status=how, history=history, fingerprint="f"))
    sweep = store.sweep_folder(plan.loaded.sweep)
    search = SearchStudy(plan, sweep, "content")
    for _ in range(2):
        asked = search.ask()
        assert asked is not None
        search.report(asked[0], Epoch(epoch=1, metrics={"val/single_top1": 0.5}), last=False)
    search.tell(0, Status.PRUNED, None)
    (Path(str(sweep)) / "search.json").write_text(search.record().model_dump_json())
    (Path(str(sweep)) / "lock").write_text("1 on host")
    file = status.StatusFile(sweep, plan.loaded.sweep, 3, 1)
    file.end()
    store.remember_fingerprint("a", "b")
    return folder


def the_plan(folder: Path, new: bool = False) -> tuple[Plan, CellStore]:
    path = write(folder, study(seeds=1)) if new else folder / "study.yaml"
    return make_plan(load(path)), CellStore(folder / "store")


@fuzz(60)
@given(data=st.data())
def test_stores(data: st.DataObject, used: Path) -> None:
    """Records, journals and what else a sweep leaves, torn or changed."""
    with scratch() as folder:
        shutil.copytree(used, folder, dirs_exist_ok=True)
        files = sorted(p for p in (folder / "store").rglob("*") if p.is_file())
        for _ in range(data.draw(st.integers(1, 2))):
            file = data.draw(st.sampled_from(files))
            content = file.read_bytes()
            try:
                if data.draw(st.booleans()) or not content:
                    raise ValueError("torn")
                if file.name == journal.FILE:
                    lines = content.splitlines()
                    at = data.draw(st.integers(0, len(lines) - 1))
                    lines[at] = json.dumps(changed(data, json.loads(lines[at]))).encode()
                    content = b"\n".join(lines) + b"\n"
                else:
                    content = json.dumps(changed(data, json.loads(content))).encode()
            except ValueError:
                content = torn(data, content)
            file.write_bytes(content)
        before = everything(folder)
        run(main, "study.yaml", "--plan")
        run(cli.main, "status", "study.yaml")
        assert everything(folder) == before

        plan, store = the_plan(folder)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
            patch.setattr("ltsearch.plan.sources.content", lambda *_: "content")
            try:
                search = outstanding.existing_study(plan, store, folder)
                outstanding.outstanding(plan, search, store, lambda record: False)
                outstanding.count(plan, search, store)
                queue = Queue(plan, store, search, [], lambda record: False)
                while queue.next() is not None:
                    pass
            except UserError as error:
                assert str(error)
            forget(plan, store, folder, Claims(store, SweepLock(store.sweep_folder("x"))), say=print)
        assert not any((folder / "store" / "cells" / cell.id / "record.json").exists() for cell in plan.cells)
        outside = {path for path in everything(folder) if not path.startswith(str(folder / "store"))}
        assert outside == {path for path in before if not path.startswith(str(folder / "store"))}
