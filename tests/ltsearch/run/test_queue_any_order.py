"""The queue under any order of starts, epochs, failures and restarts: what must hold, whatever happens."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ltsearch.plan.cells import Cell, Plan
from ltsearch.plan.layout import make_plan
from ltsearch.run import jobs, others
from ltsearch.run.jobs import TRANSITIONS, Job, Outcome, State
from ltsearch.run.queue import Queue
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import SETTLED, CellRecord, Epoch, Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import ROOT, study, write
from trainables.synthetic import accuracy

EPOCHS = 3
AT_ONCE = 3
OFFLINE = {"name": "offline_distillation", "number": 2}
# Without an end that a study cannot come back from, every finished trial is one that the search was told of.
HARMLESS = ("start", "epoch", "restart", "never_began")
ALL = (*HARMLESS, "fail", "diverge", "retry")


def studies() -> dict[str, dict[str, Any]]:
    """Rows with teachers, a search over β with early stopping, one that repeats itself, and seeds by Stein's rule."""
    plain = {"base.training": {"epochs": EPOCHS}, "seeds": 1, "search.trials": 4}
    plain["search.early_stopping"] = {"grace_epochs": 1, "reduction_factor": 2}
    found = {"search": study(**plain)}
    found["teachers"] = study(**{**plain, "search.early_stopping": None})
    found["teachers"]["ablation"] = {
        "rows": [
            {"name": "student", "set": {"method": OFFLINE}},
            {"name": "alone", "set": {"method": {"name": "bsce"}}},
        ]
    }
    found["teachers"]["base"]["method"] = OFFLINE
    found["teachers"]["search"]["space"] = {"method.weight": {"choice": [0.25, 0.5, 0.75, 1.0]}}
    found["repeats"] = study(**{**plain, "search.early_stopping": None, "search.repeat_configurations": True})
    found["repeats"]["search"]["space"] = {"method.beta": {"choice": [0.3, 0.6]}}
    found["seeds"] = study(**{**plain, "search.seeds_per_trial": 3})
    found["seeds"]["search"]["early_stopping"] = {"rule": "wilcoxon", "p_threshold": 0.9}
    found["adaptive"] = study(**{"base.training": {"epochs": EPOCHS}, "search": None})
    found["adaptive"]["seeds"] = {"min": 2, "max": 4, "until": {"ci_halfwidth": 0.5}}
    return found


# An order that fails is told as it is: making it shorter would take minutes.
ANY_ORDER = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)


class Sweep:
    """A sweep whose trials do what they are told, by hand: as the actors and Tune's adapters would."""

    def __init__(self, folder: Path, tree: dict[str, Any]) -> None:
        self.plan: Plan = make_plan(load(write(folder, tree, f"{tree['name']}.yaml")))
        self.store = CellStore(folder / "store")
        self.lock: SweepLock | None = None
        self.trained: Counter[str] = Counter()  # how often a cell was trained to its end
        self.finished: dict[str, CellRecord] = {}
        self.start()

    def start(self) -> None:
        """A driver begins; what an earlier one had running is left as a kill leaves it."""
        folder = self.store.sweep_folder(self.plan.loaded.sweep)
        self.stop()
        self.lock = SweepLock(folder).__enter__()
        self.study = SearchStudy(self.plan, folder) if self.plan.search_base is not None else None
        self.queue = Queue(
            self.plan, self.store, self.study, [Silent()], lambda record: False, Claims(self.store, self.lock)
        )
        self.queue.say = lambda text: None

    def stop(self) -> None:
        """The driver is gone: the kernel drops its lock, its claims lie there."""
        if self.lock is not None:
            self.lock.__exit__(None)

    def do(self, what: str, which: int) -> None:
        running = list(self.queue.running.values())
        job = running[which % len(running)] if running else None
        if what == "restart":
            self.start()
        elif what == "start" or job is None:
            if len(running) < AT_ONCE and (new := self.queue.next()) is not None:
                assert new.state is State.RUNNING and new.cell.id not in {one.cell.id for one in running}
                assert self.store.read(new.cell.id) is None or not settled(self.store, new.cell)
                assert all(self.store.read(one.id).status is Status.FINISHED for one in new.cell.requires)
        elif what == "never_began":
            self.queue.again(job)
        elif what == "retry":
            self.queue.retried(job, "the process died")
        elif what == "fail":
            self.queue.end(job, Outcome(Status.FAILED, "boom"))
        elif what == "diverge":
            self.store.settle(self.record(job), Status.DIVERGED, "the loss")
            self.queue.end(job, Outcome(Status.DIVERGED, "the loss"))
        else:
            self.epoch(job)
        for cell, record in self.finished.items():
            assert self.store.read(cell) == record  # never lost, never written again

    def epoch(self, job: Job) -> None:
        """The next epoch; every one has its checkpoint."""
        config = job.cell.config
        before = self.record(job)
        number = len(before.history) + 1
        split = "val" if config.data.val_per_class else "test"
        values = {f"{split}/{name}": accuracy(config, number) for name in ("single_top1", "single_class_mean")}
        epoch = Epoch(epoch=number, metrics={**values, "seconds": 1.0})
        record = before.model_copy(update={"history": [*before.history, epoch]})
        last = number == EPOCHS
        if last:
            self.finished[job.cell.id] = self.store.settle(record, Status.FINISHED)
            self.trained[job.cell.id] += 1
        else:
            self.store.write(record)
        if self.queue.epoch(job, epoch, {}, last):
            self.queue.end(job, Outcome(Status.PRUNED))
        elif last:
            self.queue.end(job, Outcome(Status.FINISHED))

    def record(self, job: Job) -> CellRecord:
        found = self.store.read(job.cell.id)
        keep = found is not None and found.status not in SETTLED
        return found if keep and found is not None else jobs.bare_record(job)

    def drain(self) -> None:
        """To the end, one after another. It ends: no more steps than there can be epochs."""
        for _ in range(2000):
            if not self.queue.running and self.queue.next() is None:
                break
            self.do("epoch", 0)
        assert self.queue.exhausted and not self.queue.running


class Silent:
    def planned(self, cells: int) -> None: ...
    def started(self, job: Job) -> None: ...
    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None: ...
    def retried(self, job: Job, error: str) -> None: ...
    def ended(self, job: Job, outcome: Outcome) -> None: ...
    def settled(self, job: Job, outcome: Outcome) -> None: ...


def settled(store: CellStore, cell: Cell) -> bool:
    record = store.read(cell.id)
    return record is not None and record.status in SETTLED


def steps(kinds: tuple[str, ...]) -> st.SearchStrategy[list[tuple[str, int]]]:
    weighted = [kind for kind in kinds for _ in range({"epoch": 6, "start": 4}.get(kind, 1))]
    return st.lists(st.tuples(st.sampled_from(weighted), st.integers(0, AT_ONCE - 1)), max_size=40)


@pytest.mark.parametrize("kind", sorted(studies()))
@given(order=steps(ALL))
@ANY_ORDER
def test_it_always_ends_and_loses_nothing(kind: str, order: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder), studies()[kind])
        for what, which in order:
            sweep.do(what, which)
        sweep.drain()
        for _ in range(2):  # what failed is tried by the next command, and then there is nothing left
            sweep.start()
            sweep.drain()
        assert not sweep.trained or max(sweep.trained.values()) == 1
        assert sweep.queue.next() is None and sweep.queue.exhausted
        # Only what builds on a teacher that diverged fails again and again: --retry is the way out.
        said = [str(one.outcome.error) for one in sweep.queue.ended.values()]
        assert all(error.startswith("what it requires, ") for error in said)
        if sweep.study is not None:
            trials = sweep.study.record().trials
            assert len(trials) == sweep.plan.loaded.spec.search.trials  # exactly the budget
            assert [trial.number for trial in trials] == sorted({trial.number for trial in trials})
            assert all(trial.state in ("finished", "pruned", "failed") for trial in trials)


@given(order=steps(HARMLESS))
@ANY_ORDER
def test_without_failures_every_row_and_winner_has_its_cells(order: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sweep = Sweep(Path(folder), studies()["teachers"])
        for what, which in order:
            sweep.do(what, which)
        sweep.drain()
        assert sweep.study is not None
        wanted = [*sweep.plan.cells, *itertools.chain(*(cells for _, cells in sweep.study.winners()))]
        assert all(sweep.store.read(cell.id).status is Status.FINISHED for cell in wanted)
        assert all(count == 1 for count in sweep.trained.values())


@given(order=st.lists(st.tuples(st.booleans(), *[steps(HARMLESS).map(lambda found: found[:4])]), max_size=12))
@ANY_ORDER
def test_two_sweeps_train_a_cell_that_they_share_once(order: list[tuple[bool, list[tuple[str, int]]]]) -> None:
    """Two drivers on one store; either may be killed and come back, or be gone for good at the end."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(others, "LOOK_SECONDS", 0.0)
        tree = studies()["search"]
        both = Sweep(Path(folder), tree), Sweep(Path(folder), {**tree, "name": "another"})
        for which, some in order:
            for what, number in some:
                both[which].do(what, number)
                assert not both[0].queue.running.keys() & both[1].queue.running.keys()
        while not all(sweep.queue.exhausted for sweep in both):
            for sweep in both:
                sweep.do("start" if not sweep.queue.running else "epoch", 0)
        once = both[0].trained + both[1].trained
        assert once and max(once.values()) == 1
        wanted = {cell.id for sweep in both for cell in sweep.plan.cells}
        assert all(both[0].store.read(cell).status is Status.FINISHED for cell in wanted)
        for sweep in both:
            sweep.stop()


def test_what_a_driver_that_is_gone_had_claimed_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "LOOK_SECONDS", 0.0)
    tree = studies()["search"]
    first, second = Sweep(tmp_path, tree), Sweep(tmp_path, {**tree, "name": "another"})
    for _ in range(AT_ONCE):
        first.do("start", 0)
    told: list[str] = []
    second.queue.say = told.append
    taken = set(first.queue.running)
    second.do("start", 0)
    assert not taken & set(second.queue.running)
    assert len(told) == AT_ONCE and all("sweep synthetic (process" in line for line in told)
    first.stop()  # killed
    second.drain()
    assert all(second.store.read(cell).status is Status.FINISHED for cell in taken)
    second.stop()


def test_only_changes_of_the_table_are_made() -> None:
    """Every other one is refused; each of the table is one of the architecture's page, with its reason."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for before, after in itertools.product([None, *State], State):
        job = Job(None, "ablation", "a job", state=before)  # type: ignore[arg-type]
        if (before, after) in TRANSITIONS:
            job.to(after)
            assert f"| {before or ''} | {after} | {TRANSITIONS[before, after]} |" in page
        else:
            with pytest.raises(ValueError, match="a job: from"):
                job.to(after)
    assert page.count("\n| waiting | ") == sum(before is State.WAITING for before, _ in jobs.TRANSITIONS)
