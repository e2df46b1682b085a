"""The MLflow store that a sweep writes to: which one, does it answer, and what of it may be shown."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from ltsearch.spec import SweepSpec
from trainables.errors import UserError

DEFAULT_URI = "sqlite:///mlflow.db"


def experiment_name(spec: SweepSpec) -> str:
    """The spec's, else the study's name."""
    return spec.tracking.experiment or spec.name


def resolve_uri(option: str | None, spec: str | None) -> str:
    """``--tracking-uri``, then the spec, then MLFLOW_TRACKING_URI, then a SQLite file in the working directory.

    Raises ``UserError`` for a password in the first two, which end up in shell histories, process lists and repositories.
    """
    for name, uri in (("--tracking-uri", option), ("tracking.uri", spec)):
        if uri and shown(uri) != uri:
            raise UserError(
                f"{name} {shown(uri)}: a user or password in it would end up in logs; leave them out and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or put the whole URI into MLFLOW_TRACKING_URI"
            )
    return option or spec or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI


def may_pass(error: Exception) -> bool:
    """Does the store not answer, or is it busy? Other errors stay what they are, however often it is tried."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, MlflowException):
        return error.error_code in (
            "INTERNAL_ERROR",
            "TEMPORARILY_UNAVAILABLE",
            "REQUEST_LIMIT_EXCEEDED",
            "UNAVAILABLE",
        )
    return isinstance(error, OSError | SQLAlchemyError)  # requests' are OSErrors


def check(uri: str, experiment: str) -> None:
    """Raises ``UserError`` if the tracking store does not answer, or will not take the experiment; writes nothing."""
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///")).absolute()
        if not file.exists():  # connecting would make it
            there = next(place for place in file.parents if place.exists())
            if not file.parent.is_dir() or not os.access(there, os.W_OK):
                raise UserError(
                    f"tracking server {uri}: {file} cannot be made ({there} cannot be written to, or a folder below it is "
                    "missing); name another with --tracking-uri or MLFLOW_TRACKING_URI"
                )
            return
    find_experiment(connect(uri), experiment, uri)


def find_experiment(client: Any, name: str, uri: str) -> str | None:
    """The id of an experiment, None if there is none; raises ``UserError`` if it was deleted."""
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment = {name!r} was deleted in MLflow at {shown(uri)}; restore it with "
            "`mlflow experiments restore`, or name another in tracking.experiment"
        )
    return str(found.experiment_id) if found is not None else None


def shown(text: str) -> str:
    """A tracking URI, or a text that holds one, for messages and logs: without user and password.

    A password may have ``/`` and ``@`` in it: all up to the last ``@`` of a word goes.
    """
    return re.sub(r"(://)\S*@", r"\1", text)


def connect(uri: str) -> Any:
    """An MLflow client whose server has answered; raises ``UserError``."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # a line for every run that ends
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
    before = {name: os.environ.get(name) for name in patience}
    os.environ.update({name: value for name, value in patience.items() if before[name] is None})
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        return client
    except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's
        first = shown(str(error).strip().splitlines()[0][:300]) if str(error).strip() else type(error).__name__
        raise UserError(
            f"tracking server {shown(uri)}: does not answer ({first}); start it, name another with --tracking-uri or "
            f"MLFLOW_TRACKING_URI, or leave both out for {DEFAULT_URI}"
        ) from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
