"""One Tune trial: trains one cell, in an actor that is reused for the next one.

The actor reads and writes the cell's folder in the store by itself: it goes on from the checkpoint that it finds there, and the
finished record lies there before the driver hears of it. Through Tune go scalars and per-class accuracies only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ray
from ray import tune

from ltsearch.run.hang import Watchdog
from ltsearch.run.nodes import Terms
from ltsearch.run.unfit import blaming_the_node, selector
from ltsearch.run.worker_group import Layout, WorkerGroup
from ltsearch.store.cells import WEIGHTS, CellStore
from ltsearch.store.provenance import hardware
from ltsearch.store.recorder import Recorder
from ltsearch.store.records import SETTLED, CellRecord, Epoch, Status
from trainables.config import TrialConfig

if TYPE_CHECKING:
    from trainables import custom
    from trainables.data import SourceKey
    from trainables.data.source import Source
    from trainables.reports import Report


# An actor that nobody asks for anything gives its workers' CPUs and GPUs back: Tune keeps one at hand for a next trial, which
# does not come as long as the trials that run wait for what its workers hold (a node was lost). Between two epochs of a trial
# the driver may be held up by a storage that takes no writes (``patience``).
IDLE_SECONDS, IDLE_IN_TRIAL_SECONDS = 20.0, 330.0


class CellTrial(tune.Trainable):  # type: ignore[misc]
    """A class Trainable whose ``step`` is one epoch."""

    def setup(
        self,
        config: dict[str, Any],
        sources: Mapping[SourceKey, Source] | None = None,
        storage: str = "",
        cpus: float = 1,
        gpus: float = 0,
        checkpoint_seconds: float = 30.0,
        hang_seconds: float | None = None,
        provenance: Mapping[str, str] | None = None,
        layout: Layout | None = None,
        terms: Terms | None = None,
        functions: Mapping[str, custom.Trainable] | None = None,
    ) -> None:
        """Once an actor; with a ``layout``, trials are trained by a group of workers.

        ``functions``: the user's own trainables by ``custom.function``; another host may have no module to import them from.

        ``sources`` lie in the object store, shared by all actors of a machine. Raises ``RuntimeError`` if this node does not
        meet the ``terms``.
        """
        if terms is not None:
            with blaming_the_node():
                terms.meet()
        self.threads, self.gpus = max(1, int(cpus)), gpus
        # Deterministic matrix products on GPUs need this before the first of them.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self.sources = sources or {}
        self.store = CellStore(storage)
        self.checkpoint_seconds, self.hang_seconds = checkpoint_seconds, hang_seconds
        self.watchdog = Watchdog(None, None)
        self.provenance = {**(provenance or {}), **hardware()}  # of this node, which may not be the driver's
        self.settled: CellRecord | None = None
        self.recorder: Recorder | None = None
        self.own = False  # does it train a function of the user's own?
        self.run: Generator[Report]
        self.layout, self.terms, self.functions = layout, terms, functions or {}
        self._asked = threading.Lock()  # held while Tune asks for something
        self._idle: threading.Timer | None = None
        self.group: WorkerGroup | None = None
        self.run = _failing(RuntimeError("nothing was begun"))
        self._next(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next cell, in the same process and with the same workers."""
        with self._awake():
            self._next(new_config)
        self._rest(IDLE_IN_TRIAL_SECONDS)
        return True

    def _next(self, new_config: dict[str, Any]) -> None:
        self.run.close()
        self.watchdog.close()
        self.settled = None
        try:
            self._begin(new_config)
        except Exception as error:
            self.recorder = None  # that of the cell before
            self.run = _failing(error)  # in its first epoch: Tune retries what fails there, and not what fails here

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """While Tune asks for something."""
        if self._idle is not None:
            self._idle.cancel()
        with self._asked:
            yield

    def _rest(self, seconds: float) -> None:
        """If Tune asks for nothing for so long, the workers go home."""
        if self.group is not None:
            self._idle = threading.Timer(seconds, self._release)
            self._idle.daemon = True
            self._idle.start()

    def _release(self) -> None:
        if self._asked.acquire(blocking=False):
            try:
                if self.group is not None:
                    self.group.close()
                    self.group = None
            finally:
                self._asked.release()

    def cleanup(self) -> None:
        """The actor ends: its workers go home."""
        if self._idle is not None:
            self._idle.cancel()
        self.run.close()
        self.watchdog.close()
        if self.group is not None:
            self.group.close()

    def _begin(self, job: dict[str, Any]) -> None:
        from trainables.data import source_key
        from trainables.data.longtail import split

        config = TrialConfig.model_validate_json(job["trial"])
        data = split(config.data, self.sources[source_key(config.data)])
        record = self.store.read(job["cell"])
        known = record is not None and record.status in SETTLED and record.fingerprint in ("", data.fingerprint)
        # Its process died between the record and the driver's hearing of it, or another sweep has trained it meanwhile.
        self.settled = record if known else None
        if known:
            self.run = _failing(RuntimeError("the cell is settled"))  # never asked: see `step`
            return
        self.recorder = recorder = Recorder(self.store, job["cell"], config, data, job["started"], self.provenance)
        recorder.begin()
        if self.layout is not None and config.synthetic is None and config.custom is None:
            self.run = self._workers(job.get("avoid", "")).train(job)  # its workers watch themselves
            return
        self.watchdog = Watchdog(self.hang_seconds, self.store.folder(job["cell"]))
        self.own = config.custom is not None
        if config.custom is not None:
            from trainables import custom

            function = self.functions.get(config.custom.function)
            self.run = custom.train(config, data, self.store.folder(job["cell"]), function)
            return
        kept = {
            "folder": self.store.folder(job["cell"]),
            "checkpoint_seconds": self.checkpoint_seconds,
            "keep_final": job["keep_final"],
            "before_checkpoint": recorder.write,
            "required": tuple(self.store.folder(cell) / WEIGHTS for cell in job.get("requires", [])),
        }
        # Imported where they are needed: this process may train a function of the user's own, nothing, or leave it to workers.
        if config.synthetic is not None:
            with blaming_the_node():
                from trainables import synthetic
                from trainables.keeping import Keeping
            self.run = synthetic.train(config, data, Keeping(**kept))
            return
        with blaming_the_node():
            import torch

            from trainables import training
            from trainables.run_options import RunOptions
        # With more threads than CPUs held, trials that run side by side fight for the cores.
        torch.set_num_threads(self.threads)
        device = torch.device("cuda", 0) if self.gpus > 0 else torch.device("cpu")
        self.run = training.train(config, data, RunOptions(device=device, **kept))

    def _workers(self, avoid: str) -> WorkerGroup:
        """The worker group: the one there is, unless it has died; a new one is not on the nodes to ``avoid``."""
        assert self.layout is not None
        if self.group is None or not self.group.alive:
            if self.group is not None:
                self.group.close()
            self.group = WorkerGroup(
                self.layout,
                {
                    "sources": ray.put(self.sources),
                    "storage": str(self.store.root),
                    "cpus": self.layout.need["CPU"],
                    "gpus": self.layout.need["GPU"],
                    "checkpoint_seconds": self.checkpoint_seconds,
                    "hang_seconds": self.hang_seconds,
                    "provenance": self.provenance,
                    "terms": self.terms,
                },
                selector(avoid.split(",") if avoid else ()),
            )
        return self.group

    def step(self) -> dict[str, Any]:
        """Train one epoch. Divergence and exhausted memory end the trial for good; other errors are Tune's to retry."""
        with self._awake():
            result = self._step()
        self._rest(IDLE_SECONDS if result["done"] else IDLE_IN_TRIAL_SECONDS)
        return result

    def _step(self) -> dict[str, Any]:
        if self.settled is not None:
            last = self.settled.history[-1] if self.settled.history else Epoch(epoch=0, metrics={})
            return self._result(self.settled.status, last.epoch, last.metrics, self.settled.per_class)
        try:
            with self.watchdog.epoch():
                report = next(self.run)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or self.recorder is None:
                raise
            self.recorder.settle(Status.OUT_OF_MEMORY, str(error).splitlines()[0] if str(error) else "MemoryError")
            return self._result(Status.OUT_OF_MEMORY, len(self.recorder.record.history), {}, {})
        assert self.recorder is not None  # there is one where there is a report
        if report.diverged:
            self.recorder.settle(Status.DIVERGED, f"the loss was not finite in epoch {report.epoch}")
            return self._result(Status.DIVERGED, report.epoch - 1, {}, {})
        metrics = self.recorder.add(report)
        if report.done:
            self.recorder.settle(Status.FINISHED)
        elif self.own:  # it keeps checkpoints when it likes: the history must not lack an epoch that one has
            self.recorder.write()
        result = self._result(self.recorder.record.status, report.epoch, metrics, report.per_class)
        return {**result, "notice": report.notice} if report.notice else result

    def _result(
        self, status: Status, epoch: int, metrics: dict[str, float], per_class: dict[str, list[float | None]]
    ) -> dict[str, Any]:
        return {
            "status": str(status),
            "epoch": epoch,
            "metrics": metrics,
            "per_class": per_class,
            "pid": os.getpid(),
            "done": status is not Status.RUNNING,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """The cell's own checkpoint lies in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """See ``save_checkpoint``."""


def _failing(error: Exception) -> Generator[Report]:
    """A run that raises in its first epoch."""
    yield from ()
    raise error


def out_of_memory(error: BaseException) -> bool:
    """Is it exhausted memory? On the CPU, torch raises a plain RuntimeError."""
    text = str(error)
    named = type(error).__name__ in ("OutOfMemoryError", "MemoryError")
    return named or "DefaultCPUAllocator" in text or "out of memory" in text.lower()
