"""Which pack is chosen, against times worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ltsearch.plan.cells import Plan
from ltsearch.plan.estimate import CPU_LAUNCH, CPU_RATE, step
from ltsearch.plan.layout import make_plan
from ltsearch.plan.placement import at_once
from ltsearch.plan.side_by_side import (
    Machine,
    Measured,
    Pack,
    check,
    choose,
    costliest,
    fill_in,
    kind,
    known,
    machine,
    measure_cpus,
    measure_gpu,
    on_cpus,
    on_gpu,
    remember,
)
from ltsearch.store.cells import CellStore
from ltsearch.study.spec import Resources, load
from trainables.config import TrialConfig
from trainables.errors import NoRoom, UserError
from trainables.probe import Seen

GIB = 2.0**30


def test_packs() -> None:
    assert list(on_cpus(1)) == [Pack(1, 1)]
    assert list(on_cpus(2)) == [Pack(2, 1), Pack(1, 2)]
    assert list(on_cpus(6)) == [Pack(6, 1), Pack(3, 2), Pack(1, 6)]
    assert [p.trials for p in on_gpu(12)] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "trials, threads",
    [
        (8, 1),  # four rounds of two at pace 1: 4; eight of one at pace 1.6: 5
        (1, 2),  # nothing to put beside it
        (3, 2),  # two rounds at pace 1: 2; three at 1.6: 1.875
        (2, 1),
    ],
)
def test_what_ends_first(trials: int, threads: int) -> None:
    found = [Measured(Pack(1, 2), 1.6, GIB), Measured(Pack(2, 1), 1.0, GIB)]
    assert choose(found, trials).pack.threads == threads


def probe_of(rates: dict[int, float], asked: list[int], each: float = GIB):  # noqa: ANN201
    def probe(pack: Pack) -> Sequence[Seen]:
        asked.append(pack.trials)
        if pack.trials not in rates:
            raise NoRoom("CUDA out of memory")
        return [Seen(rates[pack.trials], each, room_bytes=80 * GIB)] * pack.trials

    return probe


def test_a_gpu_is_filled_until_it_is_full() -> None:
    asked: list[int] = []
    found = measure_gpu(16, probe_of({1: 10, 2: 9, 4: 6, 8: 3, 16: 1}, asked))
    assert asked == [1, 2, 4, 8] and choose(found, 100).pack.trials == 4  # 24 steps a second, as with eight
    assert choose(found, 1).pack.trials == 1
    assert choose(found, 100, at_once=3).pack.trials == 2
    assert choose(found, 100, devices=8, at_once=8).pack.trials == 1  # one on each
    asked.clear()
    measure_gpu(16, probe_of(dict.fromkeys((1, 2, 4, 8), 10.0), asked, each=20 * GIB))
    assert asked == [1, 2]  # three would fit, four do not
    asked.clear()
    found = measure_gpu(16, probe_of({1: 10, 2: 9}, asked))
    assert asked == [1, 2, 4] and len(found) == 2  # four at once were out of memory
    with pytest.raises(NoRoom, match="CUDA out of memory"):
        measure_gpu(16, probe_of({}, asked))


def test_cpus_hold_what_memory_has_room_for() -> None:
    asked: list[int] = []
    found = measure_cpus(4, 3 * GIB, probe_of({1: 3.0, 2: 1.8, 4: 1.0}, asked))
    assert asked == [1, 2]  # four do not fit
    assert choose(found, 50).pack == Pack(2, 2)


def config(**over: object) -> TrialConfig:
    return TrialConfig.model_validate({"data": {"name": "digits"}, "model": {"backbone": "resnet8"}} | over)


def the_plan(tmp_path: Path, **more: object) -> Plan:
    tree = {
        "name": "s",
        "base": {"data": {"name": "digits"}, "model": {"backbone": "resnet8"}, "method": {"name": "bsce"}},
        "ablation": {"rows": [{"name": "a"}, {"name": "b", "set": {"model.experts": 2}}]},
        "resources": "auto",
        **more,
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return make_plan(load(file))


def test_the_costliest_step_is_timed(tmp_path: Path) -> None:
    plan = the_plan(tmp_path)
    small = config()
    large = config(model={"backbone": "resnet8", "experts": 3}, augmentation={"copies": 2})
    assert costliest(plan, [small, large, small], searches=True) is large
    twice = config(method={"name": "bbn"}, model={"backbone": "resnet8", "experts": 2, "shared": "all_but_last_block"})
    assert step(twice) > 1.9 * step(config(model={"backbone": "resnet8", "experts": 2})) - 4 * CPU_LAUNCH * CPU_RATE
    after = costliest(plan, [small, config(method={"name": "crt"}, model={"backbone": "resnet20"})], False)
    assert (after.method.name, after.model.backbone) == ("bsce", "resnet20")  # it has no weights to begin with yet


def test_the_largest_of_a_search_is_timed(tmp_path: Path) -> None:
    space = {
        "model.experts": {"int": [2, 4]},
        "augmentation.copies": {"choice": [1, 3, 2]},
        "optimizer.lr": {"loguniform": [0.01, 0.1]},
        "model.backbone": {"choice": ["resnet14", "resnet8"]},
    }
    metrics = [{"name": "val/single_top1"}]
    search = {"space": space, "trials": 20, "val_per_class": 5, "metrics": metrics}
    plan = the_plan(tmp_path, search=search)
    configs = [cell.config for cell in plan.cells]
    found = costliest(plan, configs, searches=True)
    assert (found.model.experts, found.augmentation.copies, found.model.backbone) == (4, 3, "resnet14")
    assert costliest(plan, configs, searches=False).model.experts == 2  # it is over
    with pytest.raises(UserError, match="max_gpu_hours needs to know"):
        the_plan(tmp_path, search=search | {"max_gpu_hours": 3.0})


def test_the_machine_that_is_timed() -> None:
    auto = Resources.model_validate("auto")
    assert machine(auto, {}) is None and machine(auto, {"head": {"CPU": 0.0, "GPU": 1.0}}) is None
    cpus = {"a": {"CPU": 16.0, "memory": 9.0}, "b": {"CPU": 4.0, "memory": 5.0}}
    assert machine(auto, cpus) == Machine("b", False, 4, 5.0, 2)
    wide, narrow = {"CPU": 8.0, "GPU": 1.0}, {"CPU": 16.0, "GPU": 8.0}
    gpus = {**cpus, "wide": wide, "narrow": narrow}
    assert machine(auto, gpus) == Machine("narrow", True, 2, math.inf, 9)  # two cores for each of its GPUs
    of_type = {"CPU": 8.0, "GPU": 2.0, "memory": 7.0, "accelerator_type:H100": 1.0}
    other = {"CPU": 4.0, "GPU": 4.0, "memory": 7.0, "accelerator_type:L4": 1.0}
    asked = Resources(auto=True, accelerator="H100")
    assert machine(asked, {"l4": other, "h100": of_type}) == Machine("h100", True, 4, 7.0, 2)


ON = Machine("here", False, 2, math.inf, 1)


def test_what_was_timed_is_kept_by_kind_and_machine(tmp_path: Path) -> None:
    store, hardware = CellStore(tmp_path), {"cpu": "two cores", "gpu": "H200"}
    key = kind(config(), ON, hardware)
    assert known(store, key) == []
    found = [Measured(Pack(2, 1), 1.5, GIB), Measured(Pack(1, 2), 2.0, GIB)]
    remember(store, key, found)
    assert known(store, key) == found
    assert kind(config(seed=4, optimizer={"lr": 0.02}), ON, hardware) == key  # the same step
    for other in (config(model={"backbone": "resnet14"}), config(augmentation={"copies": 2})):
        assert known(store, kind(other, ON, hardware)) == []
    for on in (replace(ON, gpu=True), replace(ON, cores=8)):
        assert known(store, kind(config(), on, hardware)) == []
    assert known(store, kind(config(), ON, hardware | {"cpu": "another"})) == []
    (tmp_path / "packs.json").write_text("[")
    assert known(store, key) == []
    remember(store, key, found)
    assert known(store, key) == found


def test_what_a_trial_holds() -> None:
    asked = Resources.model_validate("auto")
    on_gpu = fill_in(asked, Pack(4, 3), replace(ON, gpu=True))
    assert (on_gpu.auto, on_gpu.gpus_per_worker, on_gpu.cpus_per_worker) == (False, 0.25, 3)
    assert at_once(on_gpu, [{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}]) == 8
    on_cpus_ = fill_in(asked, Pack(3, 2), ON)
    assert at_once(on_cpus_, [{"CPU": 7, "GPU": 0}]) == 3


def test_words_of_a_study(tmp_path: Path) -> None:
    file, parent = tmp_path / "study.yaml", tmp_path / "parent.yaml"
    parent.write_text(
        "name: s\nbase: {data: {name: digits}}\nablation: {rows: [{name: a}]}\nresources: {cpus_per_worker: 4}\n"
    )
    file.write_text(
        "extends: parent.yaml\nresources: auto\n"
        "profiles:\n  few: {resources: auto, resources.max_concurrent: 2}\n"
        "  own: {resources: {auto: false, cpus_per_worker: 2}}\n"
    )
    assert load(file).spec.resources.auto and load(file).spec.resources.cpus_per_worker == 1
    few = load(file, "few").spec.resources
    assert few.auto and few.max_concurrent == 2
    assert load(file, "own").spec.resources.cpus_per_worker == 2 and not load(file, "own").spec.resources.auto
    assert load(parent, assignments=[{"resources": "auto"}]).spec.resources.auto
    with pytest.raises(UserError, match=r"resources.*leave workers out"):
        load(file, assignments=[{"resources.workers": 2}])
    with pytest.raises(UserError, match=r"resources.*leave cpus_per_worker out .`resources: auto` undoes"):
        load(parent, assignments=[{"resources.auto": True}])


def test_trials_without_steps() -> None:
    with pytest.raises(
        UserError, match="resources: auto takes a few steps of the trainer, which synthetic does not have"
    ):
        check([config(synthetic={})])
    whole = {"name": "imagenet_lt", "image_size": 224, "store_size": 256, "aspect": "whole"}
    with pytest.raises(UserError, match="resources: auto does not time windows of whole pictures"):
        check([config(data=whole, augmentation={"crop": "random_resized_crop"})])
