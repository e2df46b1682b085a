"""Which pack is chosen, against times worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ltsearch.plan.side_by_side import Measured, Pack, choose, measure_cpus, measure_gpu, on_cpus, on_gpu
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
    def probe(pack: Pack) -> Sequence[Seen] | None:
        asked.append(pack.trials)
        return [Seen(rates[pack.trials], each)] * pack.trials if pack.trials in rates else None

    return probe


def test_a_gpu_is_filled_until_it_is_full() -> None:
    asked: list[int] = []
    found = measure_gpu(16, 80 * GIB, probe_of({1: 10, 2: 9, 4: 6, 8: 3, 16: 1}, asked))
    assert asked == [1, 2, 4, 8] and choose(found, 100).pack.trials == 4  # 24 steps a second, as with eight
    assert choose(found, 1).pack.trials == 1
    asked.clear()
    found = measure_gpu(16, 80 * GIB, probe_of(dict.fromkeys((1, 2, 4, 8), 10.0), asked, each=20 * GIB))
    assert asked == [1, 2]  # three would fit, four do not
    asked.clear()
    assert measure_gpu(16, 80 * GIB, probe_of({}, asked)) == [] and asked == [1]


def test_cpus_hold_what_memory_has_room_for() -> None:
    asked: list[int] = []
    found = measure_cpus(4, 3 * GIB, probe_of({1: 3.0, 2: 1.8, 4: 1.0}, asked))
    assert asked == [1, 2]  # four do not fit
    assert choose(found, 50).pack == Pack(2, 2)
