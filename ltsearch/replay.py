"""``ltsearch replay STUDY``: samplers and early stopping side by side, on learning curves that are in a store already."""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from ltsearch.exit_codes import DONE, MEANING, exit_code
from ltsearch.plan.cells import Plan
from ltsearch.plan.layout import make_plan
from ltsearch.plan.placement import this_machine
from ltsearch.search.replayed import Recording, Replayed, record_of, replay
from ltsearch.store.cells import STORAGE_VARIABLE, CellStore, storage_root
from ltsearch.study.messages import suggest
from ltsearch.study.options import Choice
from ltsearch.study.search import EarlyStopping
from trainables.errors import UserError
from trainables.files import write_text

SAMPLERS = ("random", "tpe", "gp", "cmaes")
RULES = ("none", "asha", "hyperband", "median", "patience")
MOST, SAID_SECONDS = 100_000, 20.0
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
    gap: float | None  # to the space's best, in units of the metric; None: no trial came to its end
    until_close: float | None  # the share after which a trial within the tolerance was over; None: never


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
        help="also write replay.md, replay.csv (one line a search) and the figure there",
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
    store = CellStore(storage_root(args.storage))
    recording = record_of(plan, store)
    longest = max(len(record.history) for record in recording.records.values())
    grace = args.grace_epochs if args.grace_epochs is not None else max(1, longest // 10)
    if not 1 <= grace <= longest:
        raise UserError(f"--grace-epochs {grace}: must be from 1 to {longest}, the epochs of the longest curve")
    trials = min(args.trials or len(recording.records) // 2 or 1, len(recording.records))
    print(
        f"{plan.loaded.sweep}: {len(recording.records)} learning curves of {recording.metric}, {recording.epochs} epochs, "
        f"best {recording.best:.4f}; {args.searches} searches of each kind, {trials} trials each, {args.at_once} at once",
        flush=True,
    )
    one = partial(_replay, plan, recording, grace=grace, trials=trials, at_once=args.at_once, tolerance=args.tolerance)
    lines = list(_all(one, [(kind, seed) for kind in kinds for seed in range(args.searches)]))
    text = table(kinds, lines, args.tolerance)
    print(text)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(args.out / "replay.csv", _csv(lines))
        write_text(args.out / "replay.md", f"{text}\n")
        write_text(args.out / "replay_progress.csv", _progress(lines, recording))
        figures = import_module("analysis.figures.replay")  # by name: nothing here depends on the analysis
        figures.draw(args.out / "replay_progress.csv", args.out / "replay", args.tolerance)
        print(f"written: {args.out}/replay.md, .csv, .svg, .png and replay_progress.csv")
    return DONE


def _listed(option: str, text: str, known: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in known:
            raise UserError(f"{option}: no {name!r}; {suggest(name, list(known))}")
    if not names:
        raise UserError(f"{option}: names nothing; of {', '.join(known)}")
    return names


def _all(one: Callable[[Kind, int], Line], asked: Sequence[tuple[Kind, int]]) -> Iterator[Line]:
    """In processes, one a core; a line now and then tells how far it is."""
    said = time.monotonic()
    cores = int(sum(node.get("CPU", 1.0) for node in this_machine()))
    with ProcessPoolExecutor(max(1, cores), mp_context=get_context("spawn")) as pool:
        for number, line in enumerate(pool.map(one, *zip(*asked, strict=True)), start=1):
            yield line
            if time.monotonic() - said > SAID_SECONDS:
                said = time.monotonic()
                print(f"{number} of {len(asked)} searches replayed", file=sys.stderr, flush=True)


def _replay(
    plan: Plan, recording: Recording, kind: Kind, seed: int, *, grace: int, trials: int, at_once: int, tolerance: float
) -> Line:
    options = {"rule": kind.rule, "grace_epochs": grace}
    stopping = EarlyStopping.model_validate(options) if kind.rule != "none" else None
    found = replay(plan, recording, sampler=kind.sampler, stopping=stopping, seed=seed, trials=trials, at_once=at_once)
    gap = recording.sign * (recording.best - found.found[-1].best) if found.found else None
    close = found.within(recording, tolerance)
    until = close / recording.epochs if close is not None else None
    return Line(kind, seed, found, found.epochs / recording.epochs, gap, until)


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
        gaps = sorted(math.inf if line.gap is None else line.gap for line in its)
        close = sorted(math.inf if line.until_close is None else line.until_close for line in its)
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


def _csv(lines: Sequence[Line]) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(COLUMNS)
    for line in lines:
        s = line.search
        best = s.found[-1].best if s.found else None
        counted = (s.trials, s.stopped, s.epochs, f"{line.share:.4f}", f"{s.seconds:.1f}")
        out.writerow((line.kind.sampler, line.kind.rule, line.seed, *counted, best, line.gap, line.until_close))
    return text.getvalue()


def _progress(lines: Sequence[Line], recording: Recording) -> str:
    """A line whenever a search has found something better."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(("sampler", "early_stopping", "search", "share", "gap"))
    for line in lines:
        for at in line.search.found:
            gap = recording.sign * (recording.best - at.best)
            out.writerow((line.kind.sampler, line.kind.rule, line.seed, at.epochs / recording.epochs, gap))
    return text.getvalue()
