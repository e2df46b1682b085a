"""The queue and the store, without Ray: order, sharing, resuming, records of every end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.plan.searched import search_cell
from ltsearch.run.jobs import Ended, Job, Outcome, bare_record
from ltsearch.run.queue import Queue
from ltsearch.search.optuna_study import SearchStudy
from ltsearch.store.cells import CellStore
from ltsearch.store.claims import Claims
from ltsearch.store.locks import SweepLock
from ltsearch.store.records import CellRecord, Epoch, Status
from ltsearch.study.spec import load
from tests.ltsearch.helpers import study, write
from trainables.synthetic import accuracy


class Events:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def planned(self, cells: int) -> None: ...

    def started(self, job: Job) -> None:
        self.seen.append(("started", job.label))

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None: ...

    def retried(self, job: Job, error: str) -> None:
        self.seen.append(("retried", job.label))

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.seen.append((str(outcome.status), job.label))

    def settled(self, job: Job, outcome: Outcome) -> None:
        self.seen.append(("settled", job.label))


def make(tmp_path: Path, fresh: bool = True, **over: Any) -> tuple[Plan, CellStore, Queue, Events]:
    plan = make_plan(load(write(tmp_path, study(**over))))
    store, events = CellStore(tmp_path / "store"), Events()
    search = SearchStudy(plan, store.sweep_folder(plan.loaded.sweep)) if plan.search_base else None
    return plan, store, Queue(plan, store, search, [events], lambda record: False), events


def work(queue: Queue, store: CellStore, job: Job, epochs: int | None = None) -> str:
    """What an actor does: report epochs, write the record at the end."""
    config = job.cell.config
    split = "val" if config.data.val_per_class else "test"
    record = store.read(job.cell.id) or CellRecord(
        cell=job.cell.id, config=config.model_dump(mode="json"), recipes={}, status=Status.RUNNING
    )
    start = record.history[-1].epoch if record.history else 0
    for e in range(start + 1, (epochs or config.training.epochs) + 1):
        epoch = Epoch(epoch=e, metrics={f"{split}/single_top1": accuracy(config, e), "seconds": 1.0})
        record = record.model_copy(update={"history": [*record.history, epoch]})
        last = e == config.training.epochs
        if last:
            store.settle(record, Status.FINISHED)
        if queue.epoch(job, epoch, {}, last):
            queue.end(job, Outcome(Status.PRUNED))
            return "pruned"
    if epochs is not None:
        store.write(record)
        return "interrupted"
    queue.end(job, Outcome(Status.FINISHED))
    return "finished"


def drain(queue: Queue, store: CellStore) -> list[tuple[str, str]]:
    done = []
    while (job := queue.next()) is not None:
        done.append((job.stage, job.cell.id))
        work(queue, store, job)
    assert queue.exhausted
    return done


def test_stages_in_order_and_nothing_twice(tmp_path: Path) -> None:
    plan, store, queue, _ = make(tmp_path)
    done = drain(queue, store)
    assert [stage for stage, _ in done] == ["ablation"] * 6 + ["search"] * 8 + ["confirm"] * 2
    assert len({cell for _, cell in done}) == len(done)
    _, _, again, _ = make(tmp_path)
    assert again.next() is None and again.exhausted


def test_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    _, store, queue, _ = make(whole)
    want = drain(queue, store)
    history = {cell: store.read(cell).history for _, cell in want}

    parts = tmp_path / "parts"
    parts.mkdir()
    got: list[tuple[str, str]] = []
    for stop in (2, 5, 9, 11):  # in the ablation, and in the search
        _, store, queue, _ = make(parts)
        while len(got) < stop:
            job = queue.next()
            got.append((job.stage, job.cell.id))
            work(queue, store, job)
        work(queue, store, queue.next(), epochs=2)  # killed in its third epoch, checkpoint at two
    _, store, queue, _ = make(parts)
    got += drain(queue, store)
    assert got == want
    assert {cell: store.read(cell).history for _, cell in got} == history


def test_a_driver_that_dies_between_the_verdict_and_the_record(tmp_path: Path) -> None:
    """The trial ends as if it had not: at the same epoch, whether its checkpoint was of that epoch or of an earlier one."""
    ends = {}
    for lost in (None, 0, 1):  # undisturbed; the record had every epoch; it lacked the last one
        folder = tmp_path / str(lost)
        folder.mkdir()
        _, store, queue, _ = make(folder)
        while (job := queue.next()) is not None:
            started = queue.store.read(job.cell.id)
            if job.stage == "search" and lost is not None and started is None:
                record = bare_record(job)
                for e in range(1, job.cell.config.training.epochs):
                    metrics = {"val/single_top1": accuracy(job.cell.config, e), "seconds": 1.0}
                    epoch = Epoch(epoch=e, metrics=metrics)
                    record = record.model_copy(update={"history": [*record.history, epoch]})
                    stop = queue.epoch(job, epoch, {}, False)
                    if stop:
                        break
                if stop:
                    kept = record.history[: len(record.history) - lost]
                    store.write(record.model_copy(update={"history": kept}))
                    _, store, queue, _ = make(folder)  # dead before `end`
                    continue
            work(queue, store, job)
        records = [CellStore(folder / "store").read(p.parent.name) for p in folder.glob("store/cells/*/record.json")]
        ends[lost] = {r.cell: (str(r.status), r.history) for r in records}
    assert "running" not in {status for status, _ in ends[0].values()}
    assert "pruned" in {status for status, _ in ends[None].values()}
    assert ends[0] == ends[None] and ends[1] == ends[None]


def test_cells_of_another_sweep_are_not_run_again(tmp_path: Path) -> None:
    _, store, queue, _ = make(tmp_path)
    first = drain(queue, store)
    _, _, other, _ = make(tmp_path, name="other")  # the same study under another name: everything is known
    assert other.next() is None and other.exhausted
    assert len(other.study.record().trials) == 8
    assert [t.state for t in other.study.record().trials] == [t.state for t in queue.study.record().trials]
    assert len(first) == 16


def test_failures(tmp_path: Path) -> None:
    _, store, queue, events = make(tmp_path, **{"seeds": 1})
    job = queue.next()
    queue.started(job)
    queue.epoch(job, Epoch(epoch=1, metrics={"train/loss": 1.0}), {}, False)
    queue.retried(job, "boom")
    queue.end(job, Outcome(Status.FAILED, "RuntimeError: boom"))
    record = store.read(job.cell.id)
    assert (record.status, record.error, len(record.history)) == (Status.FAILED, "RuntimeError: boom", 1)
    assert [kind for kind, _ in events.seen] == ["started", "retried", "failed"]
    _, _, again, _ = make(tmp_path, **{"seeds": 1})
    assert again.next().cell.id == job.cell.id  # a failed cell is tried again by the next run of the sweep


def test_what_has_finished_stays_so_whatever_became_of_its_process(tmp_path: Path) -> None:
    _, store, queue, events = make(tmp_path)
    job = queue.next()
    epoch = Epoch(epoch=9, metrics={"test/single_class_mean": 0.5})
    done = store.settle(bare_record(job).model_copy(update={"history": [epoch]}), Status.FINISHED)
    queue.end(job, Outcome(Status.FAILED, "the trial's process died"))
    assert store.read(job.cell.id) == done
    assert list(queue.ended.values()) == [Ended(job.cell.id, job.stage, job.label, Outcome(Status.FINISHED))]
    assert events.seen == [("finished", job.label)]


def test_a_search_trial_that_has_finished_is_told_so_whatever_became_of_its_process(tmp_path: Path) -> None:
    _, store, queue, _ = make(tmp_path)
    job = next_of(queue, store, "search")
    epoch = Epoch(epoch=9, metrics={"val/single_top1": 0.5})
    done = store.settle(bare_record(job).model_copy(update={"history": [epoch]}), Status.FINISHED)
    queue.end(job, Outcome(Status.FAILED, "the trial's process died"))
    assert store.read(job.cell.id) == done
    assert [(t.state, t.values) for t in queue.study.record().trials] == [("finished", [0.5])]


def next_of(queue: Queue, store: CellStore, stage: str) -> Job:
    """The first job of a stage, with those before it done."""
    while (job := queue.next()).stage != stage:
        work(queue, store, job)
    return job


def test_a_job_whose_process_died_before_it_began_is_put_back(tmp_path: Path) -> None:
    _, store, queue, events = make(tmp_path)
    first, second = queue.next(), queue.next()
    queue.again(first)
    assert list(queue.running) == [second.cell.id] and not queue.exhausted and queue.ended == {}
    again = queue.next()
    assert again is first and again.retries == 1 and events.seen == []
    assert list(queue.running) == [second.cell.id, first.cell.id]
    work(queue, store, first)
    assert store.read(first.cell.id).status is Status.FINISHED


def test_a_search_trial_whose_process_died_before_it_began_keeps_its_number(tmp_path: Path) -> None:
    _, store, queue, _ = make(tmp_path, **{"search.trials": 2})
    job = next_of(queue, store, "search")
    for retries in (1, 2):
        queue.again(job)
        assert queue.running == {} and not queue.exhausted
        job, before = queue.next(), job
        assert (job.cell, job.stage, job.trial_number, job.retries) == (before.cell, "search", 0, retries)
    assert list(queue.running) == [job.cell.id] and len(queue.study.study.trials) == 1
    work(queue, store, job)
    assert [stage for stage, _ in drain(queue, store)] == ["search", "confirm", "confirm"]
    assert [t.number for t in queue.study.record().trials] == [0, 1]


def test_a_trial_that_ran_out_of_memory_is_settled_while_tune_goes_on(tmp_path: Path) -> None:
    _, store, queue, events = make(tmp_path)
    job = queue.next()
    queue.epoch(job, Epoch(epoch=1, metrics={"train/loss": 1.0}), {}, False)
    queue.settle_early(job, Outcome(Status.OUT_OF_MEMORY, "OutOfMemoryError: the node"))
    record = store.read(job.cell.id)
    told = (record.status, record.error, [epoch.epoch for epoch in record.history])
    assert told == (Status.OUT_OF_MEMORY, "OutOfMemoryError: the node", [1])
    assert job.cell.id in queue.running and queue.ended == {} and events.seen == []  # its end comes with its next step
    queue.end(job, Outcome(Status.OUT_OF_MEMORY, record.error))
    assert store.read(job.cell.id) == record and events.seen == [("out_of_memory", job.label)]
    # One that had finished before its process was ended stays finished.
    other = queue.next()
    done = store.settle(bare_record(other), Status.FINISHED)
    queue.settle_early(other, Outcome(Status.OUT_OF_MEMORY, "OutOfMemoryError: the node"))
    assert store.read(other.cell.id) == done


@pytest.mark.parametrize("status", [Status.DIVERGED, Status.OUT_OF_MEMORY])
def test_what_would_happen_again_is_not_tried_again(tmp_path: Path, status: Status) -> None:
    _, store, queue, _ = make(tmp_path)
    job = queue.next()
    store.settle(bare_record(job), status, "reason")
    queue.end(job, Outcome(status, "reason"))
    _, _, again, _ = make(tmp_path)
    assert again.next().cell.id != job.cell.id


def test_stale_cells_run_again(tmp_path: Path) -> None:
    plan, store, queue, events = make(tmp_path)
    job = queue.next()
    work(queue, store, job)
    stale = Queue(plan, store, None, [events], lambda record: True)
    assert stale.next().cell.id == job.cell.id


def test_one_cell_is_never_trained_twice_at_once(tmp_path: Path) -> None:
    space = {"method.beta": {"choice": [0.3]}}
    tree = study(**{"search.early_stopping": None, "search.repeat_configurations": True, "search.trials": 3})
    tree["search"]["space"] = space
    plan = make_plan(load(write(tmp_path, tree)))
    store = CellStore(tmp_path / "store")
    queue = Queue(plan, store, SearchStudy(plan, tmp_path / "s"), [], lambda record: False)
    for _ in range(6):
        work(queue, store, queue.next())
    first = queue.next()
    assert first.stage == "search"
    assert queue.next() is None and not queue.exhausted and list(queue.running) == [first.cell.id]
    work(queue, store, first)
    # The other two are told what the first one found; its confirmation is a row of the ablation, which has run.
    assert queue.next() is None and queue.exhausted
    assert [t.state for t in queue.study.record().trials] == ["finished"] * 3


def test_stale_search_cells_are_forgotten(tmp_path: Path) -> None:
    plan, store, queue, events = make(tmp_path)
    drain(queue, store)
    old = {c for c in (p.parent.name for p in (tmp_path / "store" / "cells").glob("*/record.json"))}
    search = SearchStudy(plan, store.sweep_folder("synthetic"), "other content")
    again = Queue(plan, store, search, [events], lambda record: record.fingerprint != "new")
    seen = []
    while (job := again.next()) is not None:
        seen.append(job.cell.id)
        assert store.read(job.cell.id) is None  # nothing of the old content is told or gone on with
        record = bare_record(job).model_copy(update={"fingerprint": "new"})
        store.write(record)
        work(again, store, job)
    assert len(seen) == len(old) == 16


# -- teachers --------------------------------------------------------------------------------------------------------------


def students(tmp_path: Path, search: bool = False) -> Queue:
    offline = {"name": "offline_distillation", "number": 2}
    tree = study(**{"search.early_stopping": None, "search.trials": 2, "seeds": 1})
    tree["ablation"] = {"rows": [{"name": "student", "set": {"method": offline}}]}
    if search:
        tree["base"]["method"] = offline
        tree["search"]["space"] = {"method.weight": {"choice": [0.5, 1.0]}}
    else:
        del tree["search"]
    plan = make_plan(load(write(tmp_path, tree)))
    store = CellStore(tmp_path / "store")
    study_ = SearchStudy(plan, tmp_path / "s") if search else None
    return Queue(plan, store, study_, [], lambda record: False)


def test_a_student_waits_for_its_teachers(tmp_path: Path) -> None:
    queue = students(tmp_path)
    first, second = queue.next(), queue.next()
    assert [j.stage for j in (first, second)] == ["required", "required"] and first.label == "first bsce · seed 1000000"
    assert queue.next() is None and not queue.exhausted
    work(queue, queue.store, first)
    assert queue.next() is None
    work(queue, queue.store, second)
    student = queue.next()
    assert student.stage == "ablation" and [t.id for t in student.cell.requires] == [first.cell.id, second.cell.id]
    work(queue, queue.store, student)
    assert queue.next() is None and queue.exhausted


def test_a_student_without_teacher_fails_and_says_so(tmp_path: Path) -> None:
    queue = students(tmp_path)
    first, second = queue.next(), queue.next()
    queue.end(first, Outcome(Status.FAILED, "boom"))
    work(queue, queue.store, second)
    assert queue.next() is None and queue.exhausted
    last = list(queue.ended.values())[-1]
    assert last.stage == "ablation" and last.outcome.status is Status.FAILED
    assert last.outcome.error == f"what it requires, {first.cell.id}, has not finished"
    assert queue.store.read(last.cell).status is Status.FAILED
    again = students(tmp_path)  # the next run of the sweep tries the teacher again, and then the student
    done = drain(again, again.store)
    assert [stage for stage, _ in done] == ["required", "ablation"]


def test_search_trials_have_teachers_too(tmp_path: Path) -> None:
    queue = students(tmp_path, search=True)
    done = drain(queue, queue.store)
    stages = [stage for stage, _ in done]
    # Teachers of the row; of the trials (with validation taken out), once for both; and those of the confirmation's seed 1,
    # while seed 0 shares the row's.
    assert stages == ["required"] * 2 + ["ablation"] + ["required"] * 2 + ["search"] * 2 + [
        "confirm",
        "required",
        "required",
        "confirm",
    ]
    assert [t.state for t in queue.study.record().trials] == ["finished"] * 2


# -- what is asked of it while it runs, and other sweeps ---------------------------------------------------------------------


def two_stages(tmp_path: Path, *, claims: str | None = None, **over: Any) -> Queue:
    """Rows with a first stage each, one of them shared, and one without."""
    offline = {"name": "offline_distillation", "number": 1}
    tree = study(**{"seeds": 1, **over})
    tree["ablation"] = {
        "rows": [
            {"name": "a", "set": {"method": offline}},
            {"name": "b", "set": {"method": {**offline, "weight": 0.5}}},
            {"name": "c", "set": {"method": offline, "data.imbalance.factor": 20}},
            {"name": "d", "set": {"method": {"name": "bsce"}}},
        ]
    }
    plan = make_plan(load(write(tmp_path, tree)))
    store = CellStore(tmp_path / "store")
    search = SearchStudy(plan, tmp_path / "s") if plan.search_base else None
    lock = SweepLock(store.sweep_folder(claims)).__enter__() if claims else None
    return Queue(plan, store, search, [Events()], lambda record: False, Claims(store, lock) if lock else None)


def methods(done: list[tuple[str, str]], queue: Queue) -> list[str]:
    return [str(queue.store.read(cell).config["method"]["name"]) for _, cell in done]


def test_a_row_that_is_left_out_takes_what_only_it_needs_along(tmp_path: Path) -> None:
    queue = two_stages(tmp_path, search=None)
    first = queue.next()  # the teacher of a and b; c's, which only it needs, waits
    assert first.stage == "required"
    assert queue.leave_out("c") == 2 and queue.leave_out("a") == 1
    work(queue, queue.store, first)
    done = drain(queue, queue.store)
    assert sorted(methods(done, queue)) == ["bsce", "offline_distillation"] and queue.exhausted


def test_a_row_that_is_blocked_is_left_out_too(tmp_path: Path) -> None:
    queue = two_stages(tmp_path, search=None)
    running = [queue.next() for _ in range(3)]  # two teachers and d: a, b and c are blocked
    assert queue.next() is None and queue.leave_out("c") == 1
    queue.again(running[1], charged=False)  # its node was lost: c's teacher waits again
    assert queue.leave_out("c") == 1
    for job in (running[0], running[2]):
        work(queue, queue.store, job)
    drain(queue, queue.store)
    assert queue.exhausted and not queue.running
    assert all(one.outcome.status is Status.FINISHED for one in queue.ended.values())


def test_what_a_search_trial_requires_is_not_left_out(tmp_path: Path) -> None:
    offline = {"name": "offline_distillation", "number": 1}
    over = {"search.early_stopping": None, "search.trials": 2, "search.confirm": None, "base.method": offline}
    tree = study(**{**over, "seeds": 1})
    tree["base"]["method"] = offline
    tree["search"]["space"] = {"method.weight": {"choice": [0.5, 1.0]}}
    tree["ablation"] = {"rows": [{"name": "only"}]}
    plan = make_plan(load(write(tmp_path, tree)))
    store = CellStore(tmp_path / "store")
    queue = Queue(plan, store, SearchStudy(plan, tmp_path / "s"), [Events()], lambda record: False)
    assert (
        queue.leave_out("only") == 2
    )  # with its teacher, which the trials require too: put in line when it is their turn
    first = queue.next()
    assert first.stage == "required"
    assert queue.leave_out("only") == 0
    work(queue, store, first)
    drain(queue, store)
    assert queue.exhausted and [t.state for t in queue.study.record().trials] == ["finished"] * 2


def test_more_and_fewer_trials(tmp_path: Path) -> None:
    _, store, queue, events = make(tmp_path, **{"ablation": None, "search.trials": 2, "search.confirm": None})
    counted: list[int] = []
    events.planned = counted.append  # type: ignore[method-assign]
    jobs = [queue.next(), queue.next()]  # all that were to be tried run
    assert queue.change_trials(4) == "as asked: 4 trials instead of 2"
    assert queue.change_trials(1) == "as asked: 2 trials instead of 4"  # those that run are not taken back
    assert queue.change_trials(3) == "as asked: 3 trials instead of 2" and sum(counted) == 1
    for job in jobs:
        work(queue, store, job)
    assert len(drain(queue, store)) == 1 and queue.exhausted
    assert "the search is over: `--set search.trials=9` goes on with it" in queue.change_trials(9)


def test_nothing_of_a_cell_that_another_sweep_trains_is_changed(tmp_path: Path) -> None:
    """Neither what it would stop by its own rule, nor what it cannot read."""
    over = {"ablation": None, "search.confirm": None, "search.enqueue": ["base"]}
    over["search.early_stopping"] = {"rule": "patience", "epochs_without_progress": 1, "grace_epochs": 1}
    tree = study(**over)
    tree["search"]["early_stopping"] = over["search.early_stopping"]
    plan = make_plan(load(write(tmp_path, tree)))
    store = CellStore(tmp_path / "store")
    locks = [SweepLock(store.sweep_folder(name)).__enter__() for name in ("a", "b")]
    theirs, queue = (
        Claims(store, locks[0]),
        Queue(
            plan, store, SearchStudy(plan, tmp_path / "s"), [Events()], lambda record: False, Claims(store, locks[1])
        ),
    )
    cell = search_cell(plan, {"method.beta": 0.3, "method.lambda_inter": 0.6})
    assert theirs.take(cell.id) is None
    falls = [Epoch(epoch=e, metrics={"val/single_top1": 1 - e / 10}) for e in (1, 2, 3)]
    store.write(bare_record(Job(cell, "search", "theirs")).model_copy(update={"history": falls}))
    (store.folder(cell.id) / "checkpoint.pt").write_bytes(b"theirs")
    before = (store.folder(cell.id) / "record.json").read_bytes()
    assert queue.next() is None and not queue.exhausted and queue.only_waits_for_others
    assert (store.folder(cell.id) / "record.json").read_bytes() == before
    assert (store.folder(cell.id) / "checkpoint.pt").read_bytes() == b"theirs"
    for lock in locks:
        lock.__exit__(None)
