"""A running cell's record: kept up by whoever sees the trainer's reports."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ltsearch.store.cells import CellStore
from ltsearch.store.ids import recipes
from ltsearch.store.records import (
    BEST_ON_TEST,
    ENSEMBLE_TOP1,
    SETTLED,
    SINGLE_TOP1,
    SINGLE_TOP1_MAX,
    TEST,
    CellRecord,
    Epoch,
    Status,
    headline,
)
from trainables.config import TrialConfig

if TYPE_CHECKING:
    from trainables.data.longtail import TrialData
    from trainables.reports import Report


class Recorder:
    """One cell's record in the store, epoch by epoch."""

    def __init__(
        self,
        store: CellStore,
        cell: str,
        config: TrialConfig,
        data: TrialData,
        started: float,
        provenance: Mapping[str, str],
    ) -> None:
        """Go on with the record that is there; one that was made from another content of the data set is forgotten."""
        self.store = store
        old = store.read(cell)
        if old is not None and old.fingerprint not in ("", data.fingerprint):
            store.clear(cell)
            old = None
        self.record = CellRecord(
            cell=cell,
            config=config.model_dump(mode="json"),
            recipes=recipes(config),
            status=Status.RUNNING,
            fingerprint=data.fingerprint,
            class_counts=data.class_counts.tolist(),
            class_names=list(data.class_names),
            started=started or time.time(),
            history=old.history if old is not None else [],
            provenance=dict(provenance),
        )

    def begin(self) -> None:
        """Leave word that it has begun, where there is none.

        A cell whose driver dies before its first checkpoint goes on as the same run of MLflow, by the time of its start.
        """
        with suppress(OSError):  # a disk that is full is told of by what must be written
            if self.store.read(self.record.cell) is None:
                self.store.write(self.record)

    def add(self, report: Report) -> dict[str, float]:
        """Take an epoch in; returns its metrics, with what the whole history adds to the last one."""
        # A run that goes on from its checkpoint repeats the epochs after it: they replace what was recorded.
        history = [e for e in self.record.history if e.epoch < report.epoch]
        metrics = report.metrics | (best_epoch_on_test(history, report.metrics) if report.done else {})
        history.append(Epoch(epoch=report.epoch, metrics=metrics))
        per_class = report.per_class or self.record.per_class
        self.record = self.record.model_copy(update={"history": history, "per_class": per_class})
        return metrics

    def write(self) -> None:
        """Before every checkpoint, so that the history never lacks an epoch that the checkpoint has.

        What another sweep, which shares the cell, has finished in the meantime is not taken back.
        """
        if not self._settled_elsewhere(SETTLED):
            self.store.write(self.record)

    def _settled_elsewhere(self, how: Collection[Status]) -> bool:
        """Has another sweep brought the cell to one of these ends, on the same images?"""
        current = self.store.read(self.record.cell)
        return current is not None and current.status in how and current.fingerprint == self.record.fingerprint

    def settle(self, status: Status, error: str | None = None) -> None:
        """The record's last state."""
        if status is Status.FINISHED or not self._settled_elsewhere((Status.FINISHED,)):
            self.record = self.store.settle(self.record, status, error)
        else:
            self.record = self.record.model_copy(update={"status": status, "error": error})


HEADLINES = tuple(headline(predict).removeprefix(TEST) for predict in ("single", "ensemble"))


def best_epoch_on_test(history: Iterable[Epoch], last: Mapping[str, float]) -> dict[str, float]:
    """The best accuracies over the epochs that were evaluated on the test set; empty if only the last one was.

    Never what a table compares: published numbers are often chosen that way, and these may be set beside them.
    """
    epochs = [*(epoch.metrics for epoch in history), last]
    best = {}
    for name in (SINGLE_TOP1, SINGLE_TOP1_MAX, ENSEMBLE_TOP1, *HEADLINES):
        values = [metrics[TEST + name] for metrics in epochs if TEST + name in metrics]
        if len(values) > 1:
            best[BEST_ON_TEST + name] = max(values)
    return best
