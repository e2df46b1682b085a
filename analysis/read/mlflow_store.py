"""Runs on a tracking server. No other module here imports MLflow."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import Run
from pydantic import ValidationError

from analysis.read.finals import Finals
from analysis.read.runs import PARAM, SweepRuns, cells_of, check_finished, frame
from ltsearch.store import records
from ltsearch.store.records import CellRecord, PlanRecord, SearchRecord, Status
from trainables.errors import UserError

_PAGE = 500  # runs a page: bounds what MLflow holds at once

# While a store is read: no bars, and a server that does not answer is given up after seconds, not minutes.
_QUIET_ENVIRONMENT = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class TrackingStore:
    """An MLflow tracking store that is only read."""

    def __init__(self, uri: str) -> None:
        """Connect; raises ``UserError`` if a SQLite file is not there: MLflow would create an empty one."""
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            raise UserError(f"{uri}: no such file; run the sweep first, or name its store with --tracking-uri")
        self.uri = self.name = uri
        self._run_of: dict[str, str] = {}  # cell -> run, of the sweeps that were read
        with self._reading():
            self._client = MlflowClient(tracking_uri=uri)

    def sweep(self, name: str) -> SweepRuns:
        """Read a sweep; raises ``UserError`` if it is not there, or none of its runs has finished."""
        plan, search, rows = self._read(name)
        return check_finished(SweepRuns(plan, search, frame(rows)), self.uri, name)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows of a sweep's frame: one a cell, its newest finished run or else its newest; raises ``UserError``."""
        return self._read(name)[2]

    def links(self, name: str) -> dict[str, tuple[str, str]]:
        """Run and page of every cell, as the sweep's end wrote them, without a look at the runs; raises ``UserError``."""
        with self._reading():
            parent = self._parent(name, [e.experiment_id for e in self._experiments()]).info
            linked: dict[str, str] = json.loads(self._artifact(parent.run_id, records.RUNS_ARTIFACT) or "{}")
        self._run_of |= linked
        return {cell: (run_id, self.page(parent.experiment_id, run_id)) for cell, run_id in linked.items()}

    def _read(self, name: str) -> tuple[PlanRecord, SearchRecord | None, list[dict[str, Any]]]:
        with self._reading():
            experiments = [e.experiment_id for e in self._experiments()]
            parent = self._parent(name, experiments)
            run_id = parent.info.run_id
            plan = PlanRecord.model_validate_json(self._required(run_id, records.PLAN_ARTIFACT, name))
            search_text = self._artifact(run_id, records.SEARCH_ARTIFACT)
            search = SearchRecord.model_validate_json(search_text) if search_text is not None else None
            linked: dict[str, str] = json.loads(self._artifact(run_id, records.RUNS_ARTIFACT) or "{}")
            rows = self._rows(name, cells_of(plan, search), linked.values(), experiments)
        self._run_of |= {row["cell"]: row["run_id"] for row in rows}
        return plan, search, rows

    def sweeps(self) -> list[str]:
        """Names of all sweeps, sorted."""
        with self._reading():
            experiments = [e.experiment_id for e in self._experiments()]
            parents = self._runs(experiments, f"tags.`{records.TAG_ROLE}` = 'sweep'")
            return sorted({run.data.tags.get(records.TAG_SWEEP, "") for run in parents} - {""})

    def records(self, cells: Iterable[str]) -> dict[str, CellRecord]:
        """One download each, of cells of sweeps that were read."""
        found: dict[str, CellRecord] = {}
        with self._reading():
            for cell in cells:
                text = self._artifact(self._run_of[cell], records.RECORD_ARTIFACT) if cell in self._run_of else None
                if text is not None:
                    found[cell] = CellRecord.model_validate_json(text)
        return found

    def final(self, cell: str) -> Finals | None:
        """The arrays of a cell's run, as a download."""
        run_id = self._run_of.get(cell)
        if run_id is None:
            return None
        with self._reading(), tempfile.TemporaryDirectory() as folder:
            if all(item.path != records.FINAL_ARTIFACT for item in self._client.list_artifacts(run_id)):
                return None
            path = self._client.download_artifacts(run_id, records.FINAL_ARTIFACT, folder)
            return Finals.load(Path(path).read_bytes())

    # -- MLflow ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Silence, and whatever the store raises as one ``UserError``."""
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        added = {key: value for key, value in _QUIET_ENVIRONMENT.items() if key not in os.environ}
        os.environ.update(added)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        except UserError:
            raise
        except ValidationError as error:
            raise UserError(f"{self.uri}: a record is not what this version reads: {_first_line(error)}") from None
        # MLflow lets errors of requests, urllib3 and SQLAlchemy through as they are: any of them means "no answer".
        except Exception as error:
            raise UserError(f"{self.uri}: the tracking store does not answer: {_first_line(error)}") from error
        finally:
            for key in added:
                os.environ.pop(key, None)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

    def _experiments(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_experiments(page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _runs(self, experiments: Sequence[str], query: str) -> Iterator[Run]:
        """Newest first."""
        token = None
        while experiments:
            page = self._client.search_runs(
                list(experiments),
                filter_string=query,
                max_results=_PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _parent(self, name: str, experiments: Sequence[str]) -> Run:
        role = f"tags.`{records.TAG_ROLE}` = 'sweep'"
        quoted = name.replace("'", "")  # a sweep's name has no quotes
        for run in self._runs(experiments, f"{role} and tags.`{records.TAG_SWEEP}` = '{quoted}'"):
            return run
        names = sorted({run.data.tags.get(records.TAG_SWEEP, "") for run in self._runs(experiments, role)} - {""})
        raise UserError(f"{self.uri}: no sweep {name!r}; sweeps there: {', '.join(names) or 'none'}")

    def _rows(
        self, name: str, cells: set[str], linked: Iterable[str], experiments: Sequence[str]
    ) -> list[dict[str, Any]]:
        quoted = name.replace("'", "")
        best: dict[str, dict[str, Any]] = {}

        def offer(runs: Iterable[Run]) -> set[str]:
            seen = set()
            for run in runs:
                seen.add(run.info.run_id)
                row = self._row(run)
                known = best.get(row["cell"])
                if row["cell"] in cells and (known is None or _rank(row) > _rank(known)):
                    best[row["cell"]] = row
            return seen

        role = f"tags.`{records.TAG_ROLE}` = 'trial'"
        seen = offer(self._runs(experiments, f"{role} and tags.`{records.TAG_SWEEP}` = '{quoted}'"))
        others = sorted(set(linked) - seen)  # reused from other sweeps, perhaps of other experiments
        for start in range(0, len(others), _PAGE):
            ids = ", ".join(f"'{run_id}'" for run_id in others[start : start + _PAGE])
            offer(self._runs(experiments, f"{role} and attributes.run_id IN ({ids})"))
        return list(best.values())

    def _row(self, run: Run) -> dict[str, Any]:
        tags, info = run.data.tags, run.info
        return {
            "cell": tags.get(records.TAG_CELL, ""),
            "run_id": info.run_id,
            "page": self.page(info.experiment_id, info.run_id),
            "seed": int(tags[records.TAG_SEED]) if records.TAG_SEED in tags else None,
            "status": tags.get(records.TAG_STATUS, Status.RUNNING.value),
            "error": tags.get(records.TAG_ERROR, ""),
            "fingerprint": tags.get(records.TAG_FINGERPRINT, ""),
            "timed": tags.get(records.TAG_TIMED, ""),
            "recipes": json.loads(tags.get(records.TAG_RECIPES, "{}")),
            "epochs_planned": int(tags[records.TAG_EPOCHS]) if records.TAG_EPOCHS in tags else None,
            "started": info.start_time / 1000 if info.start_time else math.nan,
            "ended": info.end_time / 1000 if info.end_time else math.nan,
            **{f"{PARAM}{key}": value for key, value in run.data.params.items()},
            **run.data.metrics,
        }

    def page(self, experiment: str, run_id: str) -> str:
        """Where a server shows a run; empty for a database, which has no pages of its own."""
        if urlsplit(self.uri).scheme not in ("http", "https"):
            return ""
        parts = urlsplit(self.uri)
        place = parts._replace(netloc=parts.netloc.rpartition("@")[2])  # without a password
        return f"{urlunsplit(place).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"

    def _artifact(self, run_id: str, name: str) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            if all(item.path != name for item in self._client.list_artifacts(run_id)):
                return None
            return Path(self._client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")

    def _required(self, run_id: str, name: str, sweep: str) -> str:
        text = self._artifact(run_id, name)
        if text is None:
            raise UserError(f"{self.uri}: sweep {sweep!r} (run {run_id}) has no {name}; run the sweep again")
        return text


def _rank(row: dict[str, Any]) -> tuple[bool, float, str]:
    return row["status"] == Status.FINISHED, row["started"], row["run_id"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
