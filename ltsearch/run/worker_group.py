"""One long-lived Ray Train worker group that trains trial after trial data-parallel.

Starting a group takes many seconds and a group that is torn down in mid-trial leaks its placement group, so the trial actor
owns one for as long as it lives: ``TorchTrainer.fit`` runs in a thread, its workers take one trial's job after another from a
mailbox, and leave ``fit`` normally when the actor is done. A worker that dies takes the group with it; the next trial, or the
next attempt of the same one, starts another.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from ltsearch.run.hang import Watchdog
from ltsearch.run.placement_groups import here
from ltsearch.run.unfit import LOST, NO_PLACE, blaming_the_node, lost

if TYPE_CHECKING:
    from trainables.reports import Report

POLL_SECONDS = 0.01
START_SECONDS = 1200.0  # a group that has not begun by then never will: a cloud takes minutes to start a node


@dataclass(frozen=True)
class Layout:
    """What a group is made of."""

    workers: int
    need: Mapping[str, float]  # of one worker, by Ray's names
    labels: Mapping[str, str]  # of the nodes
    spread: bool


class Mailbox:
    """An actor between the trial and its workers: jobs in, reports out."""

    def __init__(self) -> None:
        """Empty."""
        self.number, self.job = 0, None
        self.closed = self.taken = False
        self.reports: list[Any] = []
        self.asked = self.delivered = 0  # of the job's epochs

    def put(self, job: Any) -> int:
        """The next job; ends the one before at its next epoch."""
        self.number += 1
        self.job, self.reports = job, []
        self.asked = self.delivered = 0
        return self.number

    def stop(self) -> None:
        """End the job at its next epoch, without another."""
        self.number += 1
        self.job, self.reports = None, []

    def take(self, last: int) -> tuple[int, Any] | None:
        """For workers: a job that is newer than ``last``; (-1, None) when there will be none; None for later."""
        self.taken = True
        if self.closed:
            return -1, None
        return (self.number, self.job) if self.number > last and self.job is not None else None

    def report(self, number: int, report: Any) -> None:
        """For workers: an epoch of a job."""
        if number == self.number:
            self.reports.append(report)
            self.delivered += 1

    def go_on(self, number: int) -> bool | None:
        """For workers, after an epoch: True for the next one, False if the job is to end; None: nobody has asked yet.

        Without waiting, workers would run ahead of a search that is about to stop the trial, and write what it has settled.
        """
        if number != self.number or self.closed:
            return False
        return True if self.asked > self.delivered else None

    def ask(self, number: int) -> None:
        """For the trial: it wants one more epoch."""
        self.asked += number == self.number

    def pop(self) -> Any:
        """For the trial: the oldest report that it has not seen; None if there is none."""
        return self.reports.pop(0) if self.reports else None

    def begun(self) -> bool:
        """Has a worker asked for a job?"""
        return self.taken

    def close(self) -> None:
        """The workers go home after their epoch."""
        self.closed = True


class WorkerGroup:
    """The actor's side."""

    def __init__(self, layout: Layout, setup: Mapping[str, Any], where: Mapping[str, str] | None = None) -> None:
        """Start the group; ``setup`` is what every worker needs once (see ``work``), ``where`` labels of its nodes."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        # On this node, or a lost one could take the mail of trials that had nothing to do with it.
        self.mailbox = ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=here()).remote()
        self.error: BaseException | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="ltsearch-group-")
        trainer = TorchTrainer(
            work,
            train_loop_config={**setup, "mailbox": self.mailbox},
            scaling_config=ScalingConfig(
                num_workers=layout.workers,
                use_gpu=layout.need["GPU"] > 0,
                resources_per_worker={kind: of for kind, of in layout.need.items() if of},
                placement_strategy="SPREAD" if layout.spread else "PACK",
                label_selector={**layout.labels, **(where or {})} or None,
            ),
            run_config=RunConfig(
                name="group", storage_path=self._scratch.name, failure_config=FailureConfig(max_failures=0)
            ),
        )
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._fit, args=(trainer,), daemon=True, name="worker-group")
        self._thread.start()

    def _fit(self, trainer: Any) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # told to whoever waits for a report
            self.error = error

    @property
    def alive(self) -> bool:
        """Does it take jobs?"""
        return self._thread.is_alive()

    def train(self, job: Mapping[str, Any]) -> Generator[Report]:
        """A trial's reports, as ``trainables.training.train`` yields them; raises what ended the group, if that happens."""
        number = ray.get(self.mailbox.put.remote(dict(job)))
        try:
            done = False
            while not done:
                self.mailbox.ask.remote(number)
                report = self._wait()
                done = report.done
                yield report
        finally:
            if self.alive:
                self.mailbox.stop.remote()

    def _wait(self) -> Report:
        """The next report; raises what ended the group, or that it never began."""
        begun = False
        while True:
            report: Report | None = ray.get(self.mailbox.pop.remote())
            if report is not None:
                return report
            if not self.alive:
                raise RuntimeError(reason(self.error)) from self.error
            late = time.monotonic() - self._started > START_SECONDS
            if late and not begun:
                begun = ray.get(self.mailbox.begun.remote())
                if not begun:
                    raise RuntimeError(
                        f"{NO_PLACE} within {START_SECONDS:g} s: nodes, or other jobs, leave no room for it"
                    )
            time.sleep(POLL_SECONDS)

    def close(self) -> None:
        """Let the workers go and wait until their placement group is given back."""
        try:
            ray.get(self.mailbox.close.remote(), timeout=10)
        except Exception:  # the mailbox is gone already
            pass
        self._thread.join(60)
        ray.kill(self.mailbox)
        self._scratch.cleanup()


def reason(error: BaseException | None) -> str:
    """What a worker raised, in one line."""
    failures = list((getattr(error, "worker_failures", None) or {}).values()) or [error]
    texts = [str(getattr(failure, "cause", None) or failure) for failure in failures]
    if any(lost(text) for text in texts):
        return LOST
    # One worker that runs out of memory makes the others lose their connections: it is the one to tell of.
    lines = [line.strip() for text in texts for line in reversed(text.splitlines()) if line.strip()]
    memory = [line for line in lines if "out of memory" in line.lower() or "DefaultCPUAllocator" in line]
    return next(iter(memory + lines), "the worker group died")[:500]


def work(setup: dict[str, Any]) -> None:
    """What every worker runs: jobs from the mailbox until it is closed.

    ``setup``: mailbox, sources (by key, or a reference to them), storage, cpus, gpus, checkpoint_seconds, provenance, terms (of
    ``ltsearch.run.nodes``).
    """
    with blaming_the_node():
        import torch
        import torch.distributed as dist

        if setup.get("terms") is not None:
            setup["terms"].meet()
    # Deterministic matrix products on GPUs need this before the first of them.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    torch.set_num_threads(max(1, int(setup["cpus"])))
    sources = ray.get(setup["sources"]) if isinstance(setup["sources"], ray.ObjectRef) else setup["sources"]
    setup = {**setup, "nodes": _nodes(workers)}
    mailbox, last = setup["mailbox"], 0

    def shared(value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    while True:
        taken = None
        while taken is None:
            taken = ray.get(mailbox.take.remote(last)) if rank == 0 else None
            taken = shared(taken)
            if taken is None:
                time.sleep(POLL_SECONDS)
        last, job = taken
        if last < 0:
            return
        for report in _reports(job, sources, setup, rank, workers):
            if rank == 0:
                ray.get(mailbox.report.remote(last, report))
            going = True if report.done else None
            while going is None:
                going = shared(ray.get(mailbox.go_on.remote(last)) if rank == 0 else None)
                if going is None:
                    time.sleep(POLL_SECONDS)
            if not going:
                break


def _nodes(workers: int) -> tuple[int, ...]:
    """The node of every rank, numbered in the order of ranks."""
    import torch.distributed as dist

    names: list[str] = [""] * workers
    dist.all_gather_object(names, ray.get_runtime_context().get_node_id())
    order = list(dict.fromkeys(names))
    return tuple(order.index(name) for name in names)


def _reports(
    job: Mapping[str, Any], sources: Mapping[Any, Any], setup: Mapping[str, Any], rank: int, workers: int
) -> Generator[Report]:
    """One trial on this worker; rank 0 keeps the record that goes with its checkpoints."""
    import torch

    from ltsearch.store.cells import WEIGHTS, CellStore
    from ltsearch.store.provenance import hardware
    from ltsearch.store.recorder import Recorder
    from trainables.config import TrialConfig
    from trainables.data import source_key
    from trainables.data.longtail import split
    from trainables.parallel import Parallel
    from trainables.run_options import RunOptions
    from trainables.training import train

    config = TrialConfig.model_validate_json(job["trial"])
    data = split(config.data, sources[source_key(config.data)])
    store = CellStore(setup["storage"])
    recorder = None
    if rank == 0:
        provenance = {**setup["provenance"], **hardware()}
        recorder = Recorder(store, job["cell"], config, data, job["started"], provenance)
    device = ray.train.torch.get_device() if setup["gpus"] else torch.device("cpu")
    options = RunOptions(
        device=device,
        folder=store.folder(job["cell"]),
        checkpoint_seconds=setup["checkpoint_seconds"],
        keep_final=job["keep_final"],
        before_checkpoint=recorder.write if recorder is not None else None,
        parallel=Parallel(rank, workers, setup["nodes"]),
        required=tuple(store.folder(cell) / WEIGHTS for cell in job.get("requires", [])),
    )
    # The first to hang ends itself, and with it the group; one file a rank would be too many.
    watchdog = Watchdog(setup.get("hang_seconds"), options.folder if rank == 0 else None)
    run = train(config, data, options)
    try:
        while True:
            with watchdog.epoch():
                report = next(run, None)
            if report is None:
                return
            if recorder is not None and not report.diverged:
                recorder.add(report)
            yield report
    finally:
        run.close()
        watchdog.close()
