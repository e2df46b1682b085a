"""What is said beside a study, on the command line or in Python: which one, and where and how it runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from ltsearch.study.overrides import parse_assignment
from ltsearch.study.spec import Loaded, load
from trainables.errors import UserError

MOST_AT_ONCE = 100_000  # trials


@dataclass(frozen=True)
class Choice:
    """A study's file, and what is put on top of it."""

    spec: Path
    profile: str | None = None
    set: tuple[str, ...] = ()  # key=value
    seeds: str | None = None  # a number of them, or a list: 0,1,2
    max_concurrent: int | None = None

    def load(self) -> Loaded:
        """The study with all of it; raises ``UserError``."""
        assignments = [parse_assignment(text) for text in self.set]
        if self.max_concurrent is not None:
            if not 1 <= self.max_concurrent <= MOST_AT_ONCE:
                shown = (
                    f"{self.max_concurrent:.6g}" if self.max_concurrent < 1e300 else "a number of hundreds of digits"
                )
                raise UserError(f"--max-concurrent {shown}: must be >= 1 and at most {MOST_AT_ONCE}")
            assignments.append({"resources": {"max_concurrent": self.max_concurrent}})
        loaded = load(self.spec, self.profile, assignments, parse_seeds(self.seeds))
        return loaded.model_copy(update={"command": self.command()})

    def command(self) -> str:
        """The command as a reader would type it; what only says where things go on this machine is left out."""
        words = ["python -m ltsearch.sweep", self.spec.name if self.spec.is_absolute() else str(self.spec)]
        words += [f"--profile {self.profile}"] if self.profile else []
        told = [a for a in self.set if not a.startswith(("report.", "tracking."))]
        words += [f"--set {shlex.quote(assignment)}" for assignment in told]
        words += [f"--seeds {self.seeds}"] if self.seeds else []
        return " ".join(words)


@dataclass(frozen=True)
class RunOptions:
    """Where a study runs and how. Nothing here changes a number."""

    storage: str | None = None  # none: LTSEARCH_STORAGE or ./store
    data_root: str | None = None  # none: LTSEARCH_DATA or ./data
    tracking_uri: str | None = None  # none: the study's, MLFLOW_TRACKING_URI or sqlite:///mlflow.db
    cluster: str | None = None  # a file, or http://… of a dashboard; none: cluster.yaml here, if it is up
    address: str | None = None  # of a Ray cluster to join
    local: bool = False  # stay on this machine
    fresh: bool = False  # forget this study's cells and search
    retry: bool = False  # cells that diverged or ran out of memory run again
    ray_logs: bool = False


def parse_seeds(text: str | None) -> int | list[int] | None:
    """``3`` or ``0,1,2``; raises ``UserError``."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",") if part.strip()] if "," in text else int(text)
    except ValueError:
        raise UserError(f"--seeds {text!r}: a number of seeds such as 3, or a list such as 0,1,2") from None
