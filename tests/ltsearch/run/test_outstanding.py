"""What is still to be done: after failures, after the data has changed, and metrics that no trial will have."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ltsearch.plan import sources
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run import outstanding
from ltsearch.run.jobs import Ended, Outcome
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Status
from ltsearch.study.spec import load
from ltsearch.sweep import main
from tests.ltsearch.helpers import study, write
from trainables.data import source_key
from trainables.errors import UserError


def settle(store: CellStore, plan: Plan, *statuses: Status, fingerprint: str = "") -> None:
    """Records of the first cells."""
    for cell, status in zip(plan.cells, statuses, strict=False):
        config = cell.config.model_dump(mode="json")
        error = None if status is Status.FINISHED else "reason"
        record = CellRecord(cell=cell.id, config=config, recipes={}, status=status, error=error)
        store.write(record.model_copy(update={"fingerprint": fingerprint}))


# -- failures of an earlier run --------------------------------------------------------------------------------------------


@pytest.fixture
def ablation(tmp_path: Path) -> Plan:
    tree = study()
    del tree["search"]
    return make_plan(load(write(tmp_path, tree)))


def test_failures_of_an_earlier_run_are_told_with_the_way_out(ablation: Plan, tmp_path: Path) -> None:
    store = CellStore(tmp_path / "store")
    settle(store, ablation, Status.DIVERGED, Status.OUT_OF_MEMORY, Status.FINISHED, Status.DIVERGED, Status.FAILED)
    cells = ablation.cells
    ended = {cells[3].id: Ended(cells[3].id, "ablation", "just now", Outcome(Status.DIVERGED, "the loss"))}
    label = ablation.rows[0].label
    assert sorted(outstanding.failures(ablation, None, store, ended)) == sorted(
        [
            f"diverged: just now ({cells[3].id}): the loss",
            f"diverged: {label} · seed 0 ({cells[0].id}): reason; --retry runs it again",
            f"out_of_memory: {ablation.rows[1].label} · seed 0 ({cells[1].id}): reason; --retry runs it again",
        ]
    )


def test_retry_makes_what_gave_no_result_outstanding(ablation: Plan, tmp_path: Path) -> None:
    store = CellStore(tmp_path / "store")
    settle(store, ablation, Status.DIVERGED, Status.OUT_OF_MEMORY, *[Status.FINISHED] * 2, Status.FAILED)
    cells = [cell.config for cell in ablation.cells]

    def left(fresh: bool, retry: bool) -> list[Any]:
        judge = outstanding.unwanted(fresh, retry, lambda record: False)
        return outstanding.outstanding(ablation, None, store, judge)

    assert left(fresh=False, retry=False) == cells[4:]  # what failed is always tried again
    assert left(fresh=False, retry=True) == [*cells[:2], *cells[4:]]
    assert left(fresh=True, retry=False) == cells


# -- data that changed under a study without a search ----------------------------------------------------------------------


def put(folder: Path, seed: int) -> None:
    """A set of 2 classes and random images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for part in ("train", "test"):
        images = []
        for _ in range(24):
            out = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(out, "PNG")
            images.append({"bytes": out.getvalue()})
        pq.write_table(pa.table({"image": images, "label": [i % 2 for i in range(24)]}), folder / f"{part}.parquet")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Data sets that are read from now on."""
    import trainables.data

    read, seen = trainables.data.read_source, []

    def counted(config: Any, root: Path, images: str = "map") -> Any:
        seen.append(config.path)
        return read(config, root, images)

    monkeypatch.setattr(trainables.data, "read_source", counted)
    return seen


def test_data_that_changed_under_finished_cells_is_read_and_they_run_again(
    reads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTSEARCH_DATA", str(root))
    put(root / "set", 0)
    tree = study(**{"base.data": {"name": "parquet", "path": "set", "imbalance": {"profile": "natural"}}})
    del tree["search"]
    tree["base"]["training"]["batch_size"] = 4
    path = write(tmp_path, tree)
    plan, store = make_plan(load(path)), CellStore(tmp_path / "store")
    every = [cell.config for cell in plan.cells]
    first = sources.read(every, root, say=print)
    sources.remember(store, first, root)
    (source,) = first.values()
    settle(store, plan, *[Status.FINISHED] * len(every), fingerprint=source.fingerprint)
    reads.clear()

    def look() -> tuple[int, list[Any], str]:
        """How many sets are read, which cells are outstanding then, and what ``--plan`` says of it."""
        reads.clear()
        configs = outstanding.settled_configs(plan, None, store)
        data = sources.read_unread(configs, store, root, say=print)
        judge = outstanding.unwanted(False, False, sources.stale_check(store, root, data))
        count, left = len(reads), outstanding.outstanding(plan, None, store, judge)
        capsys.readouterr()
        assert main([str(path), "--plan"]) == 0
        assert len(reads) == count  # the plan reads nothing
        lines = [line for line in capsys.readouterr().out.splitlines() if "new here" in line]
        return count, left, "\n".join(lines)

    assert look() == (0, [], "")
    os.utime(root / "set" / "train.parquet", (1, 1))
    new = "set: its files are new here, or have changed: whether cells are stale is known once they are read"
    assert look() == (1, [], new)  # the same images
    put(root / "set", 1)
    assert look() == (1, every, new)
    (record,) = [store.read(cell.id) for cell in plan.cells[:1]]
    assert not sources.stale_check(store, root)(record)  # what has not been read is not known
    data = sources.read_unread(every, store, root, say=print)
    assert sources.stale_check(store, root, data)(record)
    sources.remember(store, data, root)
    assert sources.stale_check(store, root)(record) and look() == (0, every, "")


# -- metrics of a search -----------------------------------------------------------------------------------------------------


def check(tmp_path: Path, metric: str, digits: Any, space: dict[str, Any] | None = None, **over: Any) -> None:
    tree = study(**{"search.metrics": [{"name": metric}], **over})
    tree["search"]["space"] |= space or {}
    plan = make_plan(load(write(tmp_path, tree)))
    assert plan.search_base is not None
    outstanding.check_metrics(plan, {source_key(plan.search_base.data): digits})


def test_a_shot_group_that_has_no_class_is_no_metric(digits: Any, tmp_path: Path) -> None:
    balanced = {"base.data.imbalance.factor": 1}
    with pytest.raises(UserError, match=r"val/single_few: no class of digits is few-shot here .*: 1\d\d to 1\d\d\)"):
        check(tmp_path, "val/single_few", digits, **balanced)
    with pytest.raises(UserError, match="val/ensemble_medium: no class of digits is medium-shot"):
        check(tmp_path, "val/ensemble_medium", digits, **balanced)
    check(tmp_path, "val/single_many", digits, **balanced)
    check(tmp_path, "val/single_few", digits)  # 12 to 123 images
    with pytest.raises(UserError, match="val/single_many: no class of digits is many-shot"):
        check(tmp_path, "val/single_many", digits, **{"search.val_per_class": 30})


def test_one_expert_has_no_distance_to_another(digits: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="val/kl_experts: one expert has no distance to another; set model.experts"):
        check(tmp_path, "val/kl_experts", digits, {"training.batch_size": {"int": [8, 16]}})
    check(tmp_path, "val/kl_experts", digits, **{"base.model.experts": 2})
    check(tmp_path, "val/kl_experts", digits, **{"search.with": ["InterCL"]})
    check(tmp_path, "val/kl_experts", digits, {"model.experts": {"int": [2, 3]}})
