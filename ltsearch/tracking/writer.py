"""MLflow, written by the driver only: one parent run a sweep, one child a cell.

Everything is fed from cell records, so a run can be completed, or a lost MLflow store rebuilt. A thread does the
writing, in order: a slow or absent server holds up no trial.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ltsearch.run.jobs import Job, Outcome
from ltsearch.store import records as r
from ltsearch.store.cells import CellStore
from ltsearch.store.records import CellRecord, Epoch, PlanRecord, SearchRecord, Status
from ltsearch.study.overrides import flatten
from ltsearch.tracking import extras
from ltsearch.tracking.background import Background
from ltsearch.tracking.extras import Heard
from ltsearch.tracking.server import connect, find_experiment, may_pass
from trainables.files import fetch

DEAD_AFTER_SECONDS = 180.0
_ENDS = {Status.FINISHED: "FINISHED", Status.PRUNED: "KILLED", Status.INTERRUPTED: "KILLED", Status.RUNNING: "RUNNING"}


class Tracker:
    """A ``Listener`` that writes what it hears to MLflow."""

    def __init__(self, uri: str, experiment: str, sweep: str, store: CellStore, warn: Callable[[str], None]) -> None:
        """Connect; raises ``UserError`` if the server does not answer. Nothing is written yet."""
        self.client = connect(uri)
        self.uri, self.sweep, self.store, self.warn = uri, sweep, store, warn
        self.experiment_name = experiment
        self.runs: dict[str, str] = {}  # cell -> run
        self.logged: dict[str, int] = {}  # cell -> last epoch that is in MLflow
        self.begun: dict[str, str | None] = {}  # cell -> when the trial behind its run was started
        self._described: set[str] = set()  # cells whose parameters were logged
        self._tried: set[tuple[str, str]] = set()  # runs that were asked for: cell, and when its trial was started
        self.parent = ""
        self._writing = Background(uri, self._beat, warn)
        self._heard: dict[str, list[Heard]] = {}  # epochs that are not written yet, by cell
        self._hearing = threading.Lock()

    # -- a sweep's life --------------------------------------------------------------------------------------------------

    def open(self, plan: PlanRecord) -> None:
        """Find or make the sweep's run, close what a dead driver left RUNNING, and start the writer."""
        self.experiment = self._experiment()
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        sweeps, trials = self._all_runs(experiments, "sweep"), self._all_runs(experiments, "trial")
        self._end_dead(sweeps, trials)
        for run in sweeps:  # newest first
            if run.data.tags.get(r.TAG_SWEEP) == self.sweep:
                self.parent = self.parent or run.info.run_id
        at_work = self._at_work(sweeps)
        for run in trials:
            cell = run.data.tags.get(r.TAG_CELL, "")
            if run.info.status == "RUNNING" and run.data.tags.get(r.TAG_PARENT) in at_work:
                continue  # another sweep is training this cell: its run is left to it
            if cell not in self.runs:
                self.runs[cell] = run.info.run_id
                self.logged[cell] = int(run.data.metrics.get("epoch", 0))
                self.begun[cell] = run.data.tags.get(r.TAG_STARTED)
                if run.data.params:
                    self._described.add(cell)
        if not self.parent:
            run = self.client.create_run(self.experiment, run_name=self.sweep, tags={r.TAG_ROLE: "sweep"})
            self.parent = run.info.run_id
        else:
            self.client.update_run(self.parent, status="RUNNING")
        self.client.set_tag(self.parent, r.TAG_SWEEP, self.sweep)
        self.client.set_tag(self.parent, r.TAG_STATUS, str(Status.RUNNING))
        self._beat()
        tags = extras.source(plan) | ({"mlflow.note.content": plan.question} if plan.question else {})
        for tag, value in tags.items():
            self.client.set_tag(self.parent, tag, value)
        self._log_text(self.parent, r.PLAN_ARTIFACT, plan.model_dump_json(indent=1))
        self._writing.start()

    def close(self, status: Status, cells: Iterable[str], plan: PlanRecord, search: SearchRecord | None) -> None:
        """Write what is left and end the sweep's run; ``cells`` are those that the sweep planned."""
        wanted = list(cells)

        def finish() -> None:
            self._log_text(self.parent, r.PLAN_ARTIFACT, plan.model_dump_json(indent=1))
            if search is not None:
                self._log_text(self.parent, r.SEARCH_ARTIFACT, search.model_dump_json(indent=1))
            if sets := extras.data_sets(plan, search, self.store.read):
                self.client.log_inputs(self.parent, sets)
            runs = {cell: self.runs[cell] for cell in wanted if cell in self.runs}
            self._log_text(self.parent, r.RUNS_ARTIFACT, json.dumps(runs, indent=1))
            self.client.set_tag(self.parent, r.TAG_STATUS, str(status))
            self.client.set_terminated(self.parent, "FINISHED" if status is Status.FINISHED else "KILLED")

        self._writing.put("the end of the sweep", finish)
        self._writing.end()

    def _beat(self) -> None:
        self.client.set_tag(self.parent, r.TAG_HEARTBEAT, f"{time.time():.0f}")

    def _put(self, cell: str, work: Callable[[], object]) -> None:
        self._writing.put(f"what is told of cell {cell}", work)

    def rebuild(self, cells: Iterable[tuple[str, str, str]]) -> None:
        """Give settled cells (id, stage, label) that have no run, or only a part of one, their run from the record."""
        for cell, stage, label in cells:
            head = self.store.head(cell)
            if head is None or head.status not in r.SETTLED | {Status.PRUNED}:
                continue
            if head.status is Status.FINISHED and self._has(head, head.config["training"]["epochs"]):
                continue
            record = self.store.read(cell) or head
            if not self._has(record, record.history[-1].epoch if record.history else 0):
                # What is RUNNING of a sweep that seemed alive in ``open`` is not ours: that sweep completes it.
                log = self._log_whole if cell in self.runs else self._log_settled
                self._put(cell, partial(log, record, stage, label, _now()))

    def _has(self, record: CellRecord, last: int) -> bool:
        """Is there a run of this training of the cell, up to its ``last`` epoch?"""
        same = self.begun.get(record.cell) in (None, f"{record.started:.3f}")
        return same and self.logged.get(record.cell, -1) >= last

    # -- Listener ----------------------------------------------------------------------------------------------------------

    def planned(self, cells: int) -> None:
        """Runs are made when trials start."""

    def started(self, job: Job) -> None:
        """A job begins or goes on."""
        config = job.cell.config.model_dump(mode="json")
        begin = partial(self._ensure_run, job.cell.id, job.stage, job.label, config, job.started, goes_on=job.goes_on)
        self._put(job.cell.id, begin)
        # A trial that goes on from its checkpoint does not tell again of the epochs before it: of those, the last may have been
        # told to a driver, or by a process, that died with it.
        record = self.store.read(job.cell.id)
        if record is not None and record.status is Status.RUNNING and record.started == job.started and record.history:
            self._put(
                job.cell.id, partial(self._log_epochs, job.cell.id, [(epoch, _now()) for epoch in record.history])
            )

    def epoch(self, job: Job, epoch: Epoch, per_class: dict[str, Any]) -> None:
        """Metrics of an epoch, once."""
        with self._hearing:
            waiting = self._heard.setdefault(job.cell.id, [])
            waiting.append((epoch, _now()))
        if len(waiting) == 1:  # of a server that is slower than the trials, what has come meanwhile is written at once
            self._put(job.cell.id, partial(self._log_heard, job.cell.id))

    def _log_heard(self, cell: str) -> None:
        while True:
            with self._hearing:
                epochs = list(self._heard.get(cell, ()))
            self._log_epochs(cell, epochs)
            with self._hearing:  # not before it is written: it may have to be tried again
                left = self._heard.pop(cell, [])[len(epochs) :]
                if not left:
                    return
                self._heard[cell] = left

    def retried(self, job: Job, error: str) -> None:
        """Kept on the run."""
        self._put(job.cell.id, partial(self._log_retry, job.cell.id, f"{job.retries}: {error}"))

    def _log_retry(self, cell: str, what: str) -> None:
        if cell in self.runs:  # a trial whose actor never came up has no run yet
            self.client.set_tag(self.runs[cell], "ltsearch.retries", what)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """The whole record."""
        record = self.store.read(job.cell.id)
        if record is not None:
            self._put(record.cell, partial(self._log_whole, record, job.stage, job.label, _now()))

    def settled(self, job: Job, outcome: Outcome) -> None:
        """The run is the one that another sweep, or an earlier command, has made; a new one if there is none here."""
        record = self.store.read(job.cell.id)
        if record is not None:
            self._put(job.cell.id, partial(self._log_settled, record, job.stage, job.label, _now()))

    def _log_settled(self, record: CellRecord, stage: str, label: str, stamp: int) -> None:
        cell, begun = record.cell, f"{record.started:.3f}"
        if cell in self.runs and self.begun[cell] in (None, begun):
            return
        if (run := self._made_before(cell, begun, by_any=True)) is None:
            self._log_whole(record, stage, label, stamp)
        else:  # its own sweep completes it
            self.runs[cell], self.begun[cell] = run.info.run_id, begun
            self.logged[cell] = int(run.data.metrics.get("epoch", 0))
            self._described.add(cell)

    def interrupt(self, jobs: Iterable[Job]) -> None:
        """Mark what was running when the sweep was interrupted."""
        for job in jobs:
            self._put(job.cell.id, partial(self._interrupt, job.cell.id))

    def _interrupt(self, cell: str) -> None:
        if cell in self.runs and self._is_ours(self.runs[cell]):
            self.client.set_tag(self.runs[cell], r.TAG_STATUS, str(Status.INTERRUPTED))
            self.client.set_terminated(self.runs[cell], "KILLED")

    def _is_ours(self, run_id: str) -> bool:
        """Not where another sweep has gone on with the cell, and taken its run, while this driver slept."""
        return bool(self.client.get_run(run_id).data.tags.get(r.TAG_PARENT) == self.parent)

    # -- a cell's run ----------------------------------------------------------------------------------------------------

    def _each(self, cell: str, parts: Iterable[tuple[str, Callable[[], object]]]) -> None:
        """Write parts of a cell's run; what is refused for good is set aside by name, and the rest goes on."""
        for what, work in parts:
            try:
                work()
            except Exception as error:
                if may_pass(error):
                    raise
                self._writing.left_out(f"{what} of cell {cell}", error)

    def _ensure_run(
        self, cell: str, stage: str, label: str, config: dict[str, Any], started: float, *, goes_on: bool = False
    ) -> str:
        """The cell's run: the one there is, unless that shows an earlier training of it, which is set aside.

        What ``goes_on`` may have been begun by another sweep, whose run becomes ours.
        """
        from mlflow.entities import Param, RunTag

        begun = f"{started:.3f}"
        if cell in self.runs and self.begun[cell] not in (None, begun):
            earlier = self.runs.pop(cell)
            self.client.set_tag(earlier, r.TAG_ROLE, "superseded")
            self.client.set_terminated(earlier, "KILLED")
            self._described.discard(cell)
        if cell in self.runs:
            self.client.update_run(self.runs[cell], status="RUNNING")
            self.client.set_tag(self.runs[cell], r.TAG_STATUS, str(Status.RUNNING))
        else:
            tags = {
                r.TAG_ROLE: "trial",
                r.TAG_PARENT: self.parent,
                r.TAG_SWEEP: self.sweep,
                r.TAG_STAGE: stage,
                r.TAG_CELL: cell,
                r.TAG_ROW: label.partition(" · seed ")[0],  # runs grouped by it show means over seeds
                r.TAG_SEED: str(config["seed"]),
                r.TAG_STATUS: str(Status.RUNNING),
                r.TAG_EPOCHS: str(config["training"]["epochs"]),
                r.TAG_STARTED: begun,
            }
            may_be = goes_on or (cell, begun) in self._tried
            made = self._made_before(cell, begun, by_any=goes_on) if may_be else None
            self._tried.add((cell, begun))
            run = made or self.client.create_run(self.experiment, run_name=label, tags=tags)
            # Known from here on: if what follows fails and is tried again, it is this run that is completed.
            self.runs[cell], self.begun[cell] = run.info.run_id, begun
            self.logged[cell] = int(run.data.metrics.get("epoch", 0))
            if made is not None:
                self.client.log_batch(run.info.run_id, tags=[RunTag(tag, value) for tag, value in tags.items()])
                self.client.update_run(run.info.run_id, status="RUNNING", name=label)
        if cell not in self._described:
            params = [Param(key, str(value)[:500]) for key, value in flatten(config).items()]
            self.client.log_batch(self.runs[cell], params=params)
            self._described.add(cell)
        return self.runs[cell]

    def _made_before(self, cell: str, begun: str, *, by_any: bool = False) -> Any:
        """The run of an attempt whose answer was lost, or ``by_any`` sweep; None if there is none."""
        tags = {r.TAG_ROLE: "trial", r.TAG_CELL: cell, r.TAG_STARTED: begun}
        if not by_any:
            tags[r.TAG_PARENT] = self.parent
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        return next(iter(self.client.search_runs([self.experiment], filter_string=query, max_results=1)), None)

    def _log_epochs(self, cell: str, epochs: Iterable[Heard]) -> None:
        """Those that are missing. Stamps are the same however often it is tried: MLflow drops what it has already by them."""
        from mlflow.entities import Metric

        if cell not in self.runs:  # refused; the whole record comes at the trial's end
            return
        # A trial that went on from its checkpoint tells epochs again.
        new = {heard[0].epoch: heard for heard in epochs if heard[0].epoch > self.logged.get(cell, 0)}
        for batch in extras.batches(new[number] for number in sorted(new)):
            metrics = [
                Metric(name, value, stamp, epoch.epoch)
                for epoch, stamp in batch
                for name, value in {**epoch.metrics, "epoch": float(epoch.epoch)}.items()
            ]
            try:
                self.client.log_batch(self.runs[cell], metrics=metrics)
            except Exception as error:
                if may_pass(error):
                    raise
                if len(batch) > 1:  # the others are not refused with it
                    for heard in batch:
                        self._log_epochs(cell, [heard])
                    continue
                self._writing.left_out(f"epoch {batch[0][0].epoch} of cell {cell}", error)
            self._writing.taken()
            self.logged[cell] = batch[-1][0].epoch

    def _log_whole(self, record: CellRecord, stage: str, label: str, stamp: int) -> None:
        """All of a settled record: epochs that are missing, totals, artifacts, tags and the end."""
        from mlflow.entities import Metric, RunTag

        run_id = self._ensure_run(record.cell, stage, label, record.config, record.started)
        self._log_epochs(record.cell, [(epoch, stamp) for epoch in record.history])
        totals = []
        if record.history:
            totals = [Metric("total_seconds", record.final["total_seconds"], stamp, record.history[-1].epoch)]
        ends = [RunTag(tag, value) for tag, value in extras.end_of(record).items()]
        text = partial(self._log_text, run_id)
        parts: list[tuple[str, Callable[[], object]]] = [
            ("the end state", lambda: self.client.log_batch(run_id, metrics=totals, tags=ends)),
            ("the data set", lambda: self.client.log_inputs(run_id, [extras.data_set(record)])),
            (r.RECORD_ARTIFACT, lambda: text(r.RECORD_ARTIFACT, record.model_dump_json(indent=1))),
        ]
        if record.per_class:
            parts.append((r.PER_CLASS_ARTIFACT, lambda: text(r.PER_CLASS_ARTIFACT, json.dumps(_named(record)))))
        parts.append((r.FINAL_ARTIFACT, partial(self._log_final, run_id, record.cell)))
        parts.append(("the end", lambda: self.client.set_terminated(run_id, _ENDS.get(record.status, "FAILED"))))
        self._each(record.cell, parts)

    def _log_final(self, run_id: str, cell: str) -> None:
        final = self.store.folder(cell) / r.FINAL_ARTIFACT
        if final.exists():
            with tempfile.TemporaryDirectory() as folder:
                self.client.log_artifact(run_id, str(fetch(final, Path(folder))))

    # -- helpers -------------------------------------------------------------------------------------------------------------

    def _experiment(self) -> str:
        found = find_experiment(self.client, self.experiment_name, self.uri)
        if found is not None:
            return found
        location = None
        if self.uri.startswith("sqlite:///"):  # beside the database, wherever later commands are run
            location = (Path(self.uri.removeprefix("sqlite:///")).absolute().parent / "mlruns").as_uri()
        kind = extras.EXPERIMENT_KIND
        try:
            return str(self.client.create_experiment(self.experiment_name, artifact_location=location, tags=kind))
        except Exception:  # another sweep has made it meanwhile?
            if (found := find_experiment(self.client, self.experiment_name, self.uri)) is None:
                raise
            return found

    def _all_runs(self, experiments: list[str], role: str) -> list[Any]:
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                experiments,
                filter_string=f"tags.`{r.TAG_ROLE}` = '{role}'",
                max_results=5000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                return found

    def _end_dead(self, sweeps: list[Any], trials: list[Any]) -> None:
        """Runs whose driver is gone: those of this sweep, whose lock we hold, and those without a heartbeat."""
        at_work = self._at_work(sweeps)
        for run in [*sweeps, *trials]:
            parent = run.data.tags.get(r.TAG_PARENT, run.info.run_id)
            if run.info.status == "RUNNING" and parent not in at_work:
                self.client.set_tag(run.info.run_id, r.TAG_STATUS, str(Status.INTERRUPTED))
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _at_work(self, sweeps: list[Any]) -> set[str]:
        """Runs of other sweeps whose drivers have given a sign of life."""
        return {
            run.info.run_id
            for run in sweeps
            if run.data.tags.get(r.TAG_SWEEP) != self.sweep
            and run.info.status == "RUNNING"
            and time.time() - float(run.data.tags.get(r.TAG_HEARTBEAT, 0)) < DEAD_AFTER_SECONDS
        }

    def _log_text(self, run_id: str, name: str, text: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text, encoding="utf-8")
            self.client.log_artifact(run_id, str(path))


def _named(record: CellRecord) -> dict[str, Any]:
    return {"classes": record.class_names, "class_counts": record.class_counts, "accuracy": record.per_class}


def _now() -> int:
    return int(time.time() * 1000)
