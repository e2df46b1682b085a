"""Which pack is chosen, against times worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ltsearch.plan.placement import at_once
from ltsearch.plan.side_by_side import (
    Measured,
    Pack,
    check,
    choose,
    costliest,
    fill_in,
    kind,
    known,
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
        return [Seen(rates[pack.trials], each, 80 * GIB)] * pack.trials

    return probe


def test_a_gpu_is_filled_until_it_is_full() -> None:
    asked: list[int] = []
    found = measure_gpu(16, probe_of({1: 10, 2: 9, 4: 6, 8: 3, 16: 1}, asked))
    assert asked == [1, 2, 4, 8] and choose(found, 100).pack.trials == 4  # 24 steps a second, as with eight
    assert choose(found, 1).pack.trials == 1
    assert choose(found, 100, at_most=3).pack.trials == 2
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


def test_the_costliest_step_is_timed() -> None:
    small = config()
    large = config(model={"backbone": "resnet8", "experts": 3}, augmentation={"copies": 2})
    assert costliest([small, large, small]) is large
    after = config(method={"name": "crt"}, model={"backbone": "resnet20"})
    assert costliest([small, after]) is small  # which cannot begin without another trial's weights
    assert costliest([after]).method.name == "ce" and costliest([after]).model.backbone == "resnet20"


def test_what_was_timed_is_kept_by_kind_and_machine(tmp_path: Path) -> None:
    store, machine = CellStore(tmp_path), {"cpu": "two cores", "gpu": "none"}
    key = kind(config(), machine)
    assert known(store, key) == []
    found = [Measured(Pack(2, 1), 1.5, GIB), Measured(Pack(1, 2), 2.0, GIB)]
    remember(store, key, found)
    assert known(store, key) == found
    assert kind(config(seed=4, optimizer={"lr": 0.02}), machine) == key  # the same step
    for other in (config(model={"backbone": "resnet14"}), config(augmentation={"copies": 2})):
        assert known(store, kind(other, machine)) == []
    assert known(store, kind(config(), machine | {"gpu": "H200"})) == []
    (tmp_path / "packs.json").write_text("[")
    assert known(store, key) == []
    remember(store, key, found)
    assert known(store, key) == found


def test_what_a_trial_holds() -> None:
    asked = Resources.model_validate("auto")
    on_gpu = fill_in(asked, Measured(Pack(4, 3), 1.0, GIB), gpus=True)
    assert (on_gpu.auto, on_gpu.gpus_per_worker, on_gpu.cpus_per_worker) == (False, 0.25, 3)
    assert at_once(on_gpu, [{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}]) == 8
    on_cpus_ = fill_in(asked, Measured(Pack(3, 2), 1.0, GIB), gpus=False)
    assert at_once(on_cpus_, [{"CPU": 7, "GPU": 0}]) == 3


def test_words_of_a_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: s\nbase: {data: {name: digits}}\nablation: {rows: [{name: a}]}\nresources: auto\n"
        "profiles: {few: {resources.max_concurrent: 2}, own: {resources: {auto: false, cpus_per_worker: 2}}}\n"
    )
    assert load(file).spec.resources.auto
    few = load(file, "few").spec.resources
    assert few.auto and few.max_concurrent == 2
    assert not load(file, "own").spec.resources.auto
    with pytest.raises(UserError, match=r"resources.*leave workers out"):
        load(file, assignments=[{"resources.workers": 2}])


def test_trials_without_steps() -> None:
    with pytest.raises(UserError, match="resources: auto.*synthetic does not have"):
        check([config(synthetic={})])
