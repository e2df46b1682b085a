"""``ltsearch replay STUDY``: samplers and early stopping side by side, on learning curves that are in a store already."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from pydantic import TypeAdapter

from ltsearch.exit_codes import DONE, INTERRUPTED, MEANING, exit_code
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.search import replayed
from ltsearch.search.replayed import Recording, Replayed, record_of, replay, with_search
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.store.permissions import folder_problem, refuse
from ltsearch.store.provenance import usable_cpus
from ltsearch.study.messages import suggest
from ltsearch.study.options import Choice
from ltsearch.study.search import EarlyStopping
from trainables.errors import UserError
from trainables.files import write_text

SAMPLERS = ("random", "tpe", "gp", "cmaes")
RULES = ("none", "asha", "hyperband", "median", "patience")
MOST, SAID_SECONDS = 100_000, 20.0
KEPT = "replayed.jsonl"  # in --out: every search as soon as it is over
_KEPT = TypeAdapter(tuple[str, int, Replayed])  # with the mark of its kind, and its seed
COLUMNS = (
    "sampler",
    "early_stopping",
    "search",
    "trials",
    "stopped",
    "epochs",
    "share",
    "seconds",
    "best",
    "gap",
    "share_until_close",
)


@dataclass(frozen=True)
class Kind:
    """What is compared."""

    sampler: str
    rule: str


@dataclass(frozen=True)
class Line:
    """One replayed search; shares are of the epochs of the whole space."""

    kind: Kind
    seed: int
    search: Replayed
    share: float
    gap: float  # to the space's best, in units of the metric; infinite: no trial came to its end
    until_close: float  # the share after which a trial within the tolerance was over; infinite: never


def main(argv: Sequence[str] | None = None) -> int:
    """The command; an exit code (``exit_codes``)."""
    args = parser().parse_args(argv)
    return exit_code(lambda: _run(args))


def parser(*, add_help: bool = True) -> argparse.ArgumentParser:
    """The command line."""
    does = "Replay searches of a space whose learning curves are in a store: which sampler, which early stopping, at what cost."
    p = argparse.ArgumentParser(
        prog="ltsearch replay",
        description=does,
        epilog=f"Exit codes: {MEANING}.",
        allow_abbrev=False,
        add_help=add_help,
    )
    p.add_argument(
        "spec", type=Path, help="the study, a YAML file; its search.space must be discrete and trained as a whole"
    )
    p.add_argument("--profile", help="the profile that it ran with")
    p.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the study, as the sweep"
    )
    p.add_argument(
        "--samplers", default="random,tpe", metavar="LIST", help=f"of {', '.join(SAMPLERS)} (default: random,tpe)"
    )
    p.add_argument(
        "--early-stopping",
        default="none,asha,hyperband,median",
        metavar="LIST",
        help=f"of {', '.join(RULES)} (default: all but patience)",
    )
    p.add_argument("--grace-epochs", type=int, metavar="N", help="before which nothing is stopped (default: a tenth)")
    p.add_argument(
        "--searches", type=int, default=50, metavar="N", help="of each kind, with seeds of their own (default: 50)"
    )
    p.add_argument("--trials", type=int, metavar="N", help="of each search (default: half of the space)")
    p.add_argument(
        "--at-once", type=int, default=4, metavar="N", help="trials side by side in each search (default: 4)"
    )
    p.add_argument(
        "--tolerance",
        type=float,
        default=0.003,
        help="of the metric: so close to the space's best is close (default: 0.003)",
    )
    p.add_argument("--storage", metavar="PLACE", help=f"where cells live (default: {STORAGE_VARIABLE} or ./store)")
    p.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="also write replay.md, replay.csv (one line a search) and the figure there, and keep what was replayed: the same "
        "command goes on, one of more samplers or searches replays those",
    )
    return p


def _run(args: argparse.Namespace) -> int:
    kinds = [
        Kind(sampler, rule)
        for sampler in _listed("--samplers", args.samplers, SAMPLERS)
        for rule in _listed("--early-stopping", args.early_stopping, RULES)
    ]
    for option, value in {"searches": args.searches, "trials": args.trials, "at-once": args.at_once}.items():
        if value is not None and not 1 <= value <= MOST:
            raise UserError(f"--{option} {value}: must be >= 1 and at most {MOST}")
    if not args.tolerance >= 0:
        raise UserError(f"--tolerance {args.tolerance:g}: must be >= 0")
    plan = make_plan(Choice(args.spec, args.profile, tuple(args.set)).load())
    recording = record_of(plan, CellStore(storage_root(args.storage)))
    longest = max(len(record.history) for record in recording.records.values())
    grace = args.grace_epochs if args.grace_epochs is not None else max(1, longest // 10)
    if not 1 <= grace <= longest:
        raise UserError(f"--grace-epochs {grace}: must be from 1 to {longest}, the epochs of the longest curve")
    trials = min(args.trials or len(recording.records) // 2 or 1, len(recording.records))
    plans = {
        kind: partial(with_search, plan, kind.sampler, _stopping(kind.rule, grace), trials=trials) for kind in kinds
    }
    for made in plans.values():
        made(seed=0)
    if args.out is not None:
        _writable(args.out)
    print(
        f"{plan.loaded.sweep}: {len(recording.records)} learning curves of {recording.metric}, {recording.epochs} epochs, "
        f"best {recording.best:.4f}; {args.searches} searches of each kind, {trials} trials each, {args.at_once} at once",
        flush=True,
    )
    asked = [(kind, seed) for kind in kinds for seed in range(args.searches)]
    try:
        lines = list(_all(_Task(plans, recording, args.at_once, args.tolerance), asked, args.out))
    except KeyboardInterrupt:
        again = (
            "the same command goes on" if args.out else "without --out nothing is kept: the same command begins again"
        )
        print(f"\ninterrupted; {again}", file=sys.stderr)
        return INTERRUPTED
    text = table(kinds, lines, args.tolerance)
    print(text)
    if args.out is not None:
        write_text(args.out / "replay.csv", _csv(lines, recording))
        write_text(args.out / "replay.md", f"{text}\n")
        write_text(args.out / "replay_progress.csv", _progress(lines, recording))
        figures = import_module("analysis.figures.replay")  # by name: nothing here depends on the analysis
        figures.draw(args.out / "replay_progress.csv", args.out / "replay", recording.metric, args.tolerance)
        print(f"written: {args.out}/replay.md, .csv, .svg, .png and replay_progress.csv")
    return DONE


def _stopping(rule: str, grace: int) -> EarlyStopping | None:
    return EarlyStopping.model_validate({"rule": rule, "grace_epochs": grace}) if rule != "none" else None


def _writable(folder: Path) -> None:
    """Raises ``UserError`` if nothing can be written there, before anything is replayed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror}; name another folder") from None
    refuse(f"--out {folder}", [folder_problem(folder)], "name another folder")


def _listed(option: str, text: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UserError(f"{option}: no {name!r}; {suggest(name, list(known))}")
    if not names:
        raise UserError(f"{option}: names nothing; of {', '.join(known)}")
    return names


@dataclass(frozen=True)
class _Task:
    """What every process needs, sent to it once."""

    plans: Mapping[Kind, Callable[..., Plan]]  # by kind: the study with a seed
    recording: Recording
    at_once: int
    tolerance: float

    def replayed(self, kind: Kind, seed: int) -> Replayed:
        """One search."""
        return replay(self.plans[kind](seed=seed), self.recording, self.at_once)

    def mark(self, kind: Kind) -> str:
        """Of all that decides what its searches find, seeds aside."""
        search = self.plans[kind](seed=0).loaded.spec.search
        assert search is not None
        curves = sorted(
            (cell, one.fingerprint, one.status, [e.metrics for e in one.history])
            for cell, one in self.recording.records.items()
        )
        decides = [
            search.model_dump(mode="json", by_alias=True),
            curves,
            self.at_once,
            *map(version, ("optuna", "torch")),
        ]
        code = b"".join(file.read_bytes() for file in sorted(Path(replayed.__file__).parent.glob("*.py")))
        return hashlib.sha256(json.dumps(decides).encode() + code).hexdigest()[:16]

    def line(self, kind: Kind, seed: int, found: Replayed) -> Line:
        """What is told of it."""
        close = found.within(self.tolerance)
        epochs = self.recording.epochs
        until = close / epochs if close is not None else math.inf
        return Line(kind, seed, found, found.epochs / epochs, found.found[-1].gap if found.found else math.inf, until)


_task: _Task


def _begin(task: _Task) -> None:
    """In a process: Ctrl-C is for the one that waits for it, and torch (GP) takes one core of several that are busy."""
    import torch

    global _task
    _task = task
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _search(asked: tuple[Kind, int]) -> Replayed:
    return _task.replayed(*asked)


def _all(task: _Task, asked: Sequence[tuple[Kind, int]], out: Path | None) -> Iterator[Line]:
    """In processes, one a core; a line now and then tells how far it is. What was replayed is kept in ``out`` at once."""
    said = time.monotonic()
    marks = {kind: task.mark(kind) for kind in dict.fromkeys(kind for kind, _ in asked)}
    known = _kept(out / KEPT) if out is not None else {}
    left = [one for one in asked if (marks[one[0]], one[1]) not in known]
    if len(left) < len(asked):
        print(f"{len(asked) - len(left)} of {len(asked)} searches are in {out} already", file=sys.stderr, flush=True)
    with ExitStack() as until_then:
        found: Iterator[Replayed] = iter(())
        if left:
            found = until_then.enter_context(get_context("spawn").Pool(usable_cpus(), _begin, (task,))).imap(
                _search, left
            )
        kept = until_then.enter_context((out / KEPT).open("a", encoding="utf-8")) if out is not None and left else None
        if kept is not None:
            kept.write("\n")  # after what a killed process has written
        for number, ((kind, seed), one) in enumerate(zip(left, found, strict=True), start=len(asked) - len(left) + 1):
            known[marks[kind], seed] = one
            if kept is not None:
                print(_KEPT.dump_json((marks[kind], seed, one)).decode(), file=kept, flush=True)
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                print(f"{number} of {len(asked)} searches replayed", file=sys.stderr, flush=True)
    return (task.line(kind, seed, known[marks[kind], seed]) for kind, seed in asked)


def _kept(file: Path) -> dict[tuple[str, int], Replayed]:
    """Searches by mark and seed; a line that cannot be read, such as the last one of a killed process, is left out.

    Raises ``UserError`` if something else than a file lies there, ``OSError`` if it may not be read.
    """
    if file.exists() and not file.is_file():
        raise UserError(f"--out {file.parent}: {KEPT} there is no file; name another folder")
    known = {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        with suppress(ValueError):
            mark, seed, found = _KEPT.validate_json(line)
            known[mark, seed] = found
    return known


def table(kinds: Sequence[Kind], lines: Sequence[Line], tolerance: float) -> str:
    """Medians over searches, with quartiles of the gap; a search that never came close counts as one that takes for ever."""
    rows = [
        (
            "sampler",
            "early stopping",
            "epochs, of all",
            "gap to the best (quartiles)",
            f"within {tolerance:g}",
            "after epochs, of all",
        )
    ]
    for kind in kinds:
        its = [line for line in lines if line.kind == kind]
        gaps, close = sorted(line.gap for line in its), sorted(line.until_close for line in its)
        rows.append(
            (
                kind.sampler,
                kind.rule,
                f"{statistics.median(line.share for line in its):.0%}",
                f"{_at(gaps, 0.5):.4f} ({_at(gaps, 0.25):.4f}–{_at(gaps, 0.75):.4f})",
                f"{sum(map(math.isfinite, close))} of {len(its)}",
                f"{middle:.0%}" if math.isfinite(middle := _at(close, 0.5)) else "not by half of them",
            )
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:]))


def _at(ordered: Sequence[float], quantile: float) -> float:
    """The smallest value that is not below this share of them: defined where some are infinite."""
    return ordered[max(0, math.ceil(quantile * len(ordered)) - 1)]


def _csv(lines: Sequence[Line], recording: Recording) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    for line in lines:
        s, kind = line.search, line.kind
        best = recording.best - recording.sign * line.gap if s.found else ""
        counted = (s.trials, s.stopped, s.epochs, f"{line.share:.4f}", f"{s.seconds:.1f}")
        close = line.until_close if math.isfinite(line.until_close) else ""
        out.writerow((kind.sampler, kind.rule, line.seed, *counted, best, line.gap if s.found else "", close))
    return text.getvalue()


def _progress(lines: Sequence[Line], recording: Recording) -> str:
    """Every search's begin, and a line whenever it has found something better."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("sampler", "early_stopping", "search", "share", "gap"))
    for line in lines:
        its = (line.kind.sampler, line.kind.rule, line.seed)
        out.writerow((*its, 0.0, math.inf))
        out.writerows((*its, at.epochs / recording.epochs, at.gap) for at in line.search.found)
    return text.getvalue()
