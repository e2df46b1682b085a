"""The MLflow store that a sweep writes to: which one, does it answer, and what of it may be shown."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ltsearch.store.permissions import file_problem, folder_problem, refuse
from ltsearch.study.spec import SweepSpec
from trainables.errors import UserError
from trainables.files import encodable, raw

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


def check_name(uri: str) -> None:
    """Raises ``UserError`` for a SQLite database, or a folder, that MLflow could not find again; looks at no disk."""
    if not uri.startswith("sqlite:") and re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]+:", uri):
        return
    file = database(uri) if uri.startswith("sqlite:") else Path(uri).absolute()
    if file is None or file.name in ("", ":memory:"):
        raise UserError(
            f"tracking server {shown(uri)}: a database in memory, or none: it would be gone with the sweep, before the report; "
            f"name a file, such as {DEFAULT_URI}"
        )
    if odd := re.search(r"[?#]|%[0-9a-fA-F]{2}", str(file)):
        raise UserError(
            f"tracking server {shown(uri)}: {odd[0]!r} in {file}: MLflow takes it for a part of an address, and would look "
            "elsewhere; name another file with --tracking-uri or MLFLOW_TRACKING_URI"
        )
    if not encodable(str(file)):
        raise UserError(f"tracking server {raw(str(file))}: not UTF-8; name another file with --tracking-uri")


def database(uri: str) -> Path | None:
    """The file of a SQLite database; None if the URI names none, or is of something else."""
    path = uri.removeprefix("sqlite:///")
    return Path(path).absolute() if path != uri and path else None


def check(uri: str, experiment: str) -> None:
    """Raises ``UserError`` if the tracking store does not answer, or will not take the experiment; writes nothing."""
    file = database(uri)
    if file is not None:
        artifacts = file.parent / "mlruns"
        if os.path.lexists(file.parent):
            # SQLite keeps its journal beside the database: a folder that cannot be written to is as bad as a file.
            problems = [folder_problem(file.parent), file_problem(file, write=True), folder_problem(artifacts)]
            refuse(f"tracking server {uri}", problems, "name another with --tracking-uri or MLFLOW_TRACKING_URI")
        if not file.exists():  # connecting would make it
            if not file.parent.is_dir():
                raise UserError(
                    f"tracking server {uri}: {file} cannot be made (the folder {file.parent} is missing); make it, or name "
                    "another with --tracking-uri or MLFLOW_TRACKING_URI"
                )
            return
    find_experiment(connect(uri), experiment, uri, write=True)


def find_experiment(client: Any, name: str, uri: str, *, write: bool = False) -> str | None:
    """The id of an experiment, None if there is none; raises ``UserError`` if it was deleted.

    With ``write``, also if its artifacts are kept in a folder that this user may not write to.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage != "active":
        raise UserError(
            f"tracking.experiment = {name!r} was deleted in MLflow at {shown(uri)}; restore it with "
            "`mlflow experiments restore`, or name another in tracking.experiment"
        )
    if found is not None and write and str(found.artifact_location).startswith("file:"):
        folder = Path(unquote(urlsplit(found.artifact_location).path))
        refuse(
            f"tracking server {shown(uri)}: artifacts of {name!r}",
            [folder_problem(folder)],
            "name another experiment in tracking.experiment",
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
