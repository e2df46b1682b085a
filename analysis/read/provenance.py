"""Where the numbers come from: code, recipes, data, packages, hardware, and the run behind every cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from analysis import markdown
from analysis.read.selection import Run
from ltsearch.store.records import CellRecord, PlanRecord, SearchRecord, Status

DATA = "params.data."  # columns of the frame
SAMPLES = 8  # records that are looked into: each is a download


@dataclass(frozen=True)
class Dataset:
    """One training set: a content and what was taken of it."""

    fingerprint: str
    class_counts: tuple[int, ...]
    trials: int


@dataclass(frozen=True)
class Provenance:
    """``facts`` by name: every value that occurs in the sampled records, ``trials`` of ``of`` finished ones."""

    command: str
    facts: dict[str, tuple[str, ...]]
    recipes: dict[str, tuple[int, ...]]
    datasets: tuple[Dataset, ...]
    began: float | None  # seconds since 1970
    ended: float | None
    trials: int
    of: int
    links: tuple[tuple[str, str, str, str], ...]  # row, seed, cell, run


def sample(cells: Mapping[str, Run]) -> list[str]:
    """Cells of the first and the last finished run of every training set, ``SAMPLES`` at most."""
    groups = _by_training_set(_finished(cells))
    firsts_then_lasts = [runs[0] for runs in groups] + [runs[-1] for runs in groups]
    return list(dict.fromkeys(str(run["cell"]) for run in firsts_then_lasts))[:SAMPLES]


def _by_training_set(runs: Sequence[Run]) -> list[list[Run]]:
    """Group runs of one content and the same data settings."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        settings = (f"{key}={found}" for key, found in sorted(run.items()) if key.startswith(DATA))
        groups.setdefault((str(run["fingerprint"]), *settings), []).append(run)
    return list(groups.values())


def build(
    plan: PlanRecord, search: SearchRecord | None, cells: Mapping[str, Run], sampled: Mapping[str, CellRecord]
) -> Provenance:
    """From the frame and a few records."""
    named = [(row.label, cell) for row in plan.rows for cell in row.cells]
    if search is not None:
        named += [(f"confirmed trial {winner.number}", cell) for winner in search.confirmed for cell in winner.cells]
    facts: dict[str, list[str]] = {}
    # The sweep's own provenance is of its last start, which may have trained nothing.
    for source in [record.provenance for record in sampled.values() if record.provenance] or [plan.provenance]:
        for key, text in source.items():
            if text not in facts.setdefault(key, []):
                facts[key].append(text)
    finished = _finished(cells)
    recipes: dict[str, set[int]] = {}
    for run in finished:
        for name, version in run["recipes"].items():
            recipes.setdefault(name, set()).add(int(version))
    datasets: dict[tuple[str, tuple[int, ...]], int] = {}
    for runs in _by_training_set(finished):
        record = sampled.get(str(runs[0]["cell"]))
        content = str(runs[0]["fingerprint"]), tuple(record.class_counts) if record is not None else ()
        datasets[content] = datasets.get(content, 0) + len(runs)
    began = [run["started"] for run in finished if not math.isnan(run["started"])]
    ended = [run["ended"] for run in finished if not math.isnan(run["ended"])]
    return Provenance(
        command=plan.command,
        facts={key: tuple(values) for key, values in sorted(facts.items())},
        recipes={name: tuple(sorted(versions)) for name, versions in sorted(recipes.items())},
        datasets=tuple(Dataset(*content, trials) for content, trials in datasets.items()),
        began=min(began) if began else None,
        ended=max(ended) if ended else None,
        trials=len(sampled),
        of=len(finished),
        links=tuple((name, str(cell.seed), cell.cell, _linked(cells.get(cell.cell, {}))) for name, cell in named),
    )


def _linked(run: Run) -> str:
    """A run's id on the tracking server, with a link to its page where there is one."""
    run_id, page = str(run.get("run_id", "")), str(run.get("page", ""))
    return f"[{run_id}]({page})" if page else run_id or markdown.ABSENT


def _finished(cells: Mapping[str, Run]) -> list[Run]:
    """Oldest first."""
    finished = [run for run in cells.values() if run["status"] == Status.FINISHED]
    return sorted(finished, key=lambda run: (run["started"], run["cell"]))


def render(provenance: Provenance) -> str:
    """Markdown."""
    rows = [("command", f"`{provenance.command}`" if provenance.command else "unknown")]
    rows += [(key, "; ".join(values)) for key, values in provenance.facts.items()]
    recipes = ", ".join(f"{name} {'/'.join(map(str, versions))}" for name, versions in provenance.recipes.items())
    rows.append(("recipe versions", recipes or "unknown"))
    rows += [("dataset", _dataset(dataset)) for dataset in provenance.datasets]
    if provenance.began is not None and provenance.ended is not None:
        rows.append(("first trial began", _time(provenance.began)))
        rows.append(("last trial ended", _time(provenance.ended)))
    lines = markdown.table(["", ""], rows, left=2)
    if provenance.trials < provenance.of:
        of = f"{provenance.trials} of the {provenance.of} finished trials"
        lines += ["", f"Code, packages and hardware as recorded by {of}."]
    if provenance.links:
        links = markdown.table(["row", "seed", "cell", "MLflow run"], provenance.links, left=4)
        lines += ["", "<details><summary>Cells and runs</summary>", "", *links, "", "</details>"]
    return "\n".join(lines)


def _dataset(dataset: Dataset) -> str:
    text = (
        f"fingerprint {dataset.fingerprint or 'unknown'} ({dataset.trials} trial{'s' if dataset.trials != 1 else ''})"
    )
    counts = dataset.class_counts
    if not counts:
        return text
    return f"{text}: {sum(counts)} training images, {len(counts)} classes: {_counts(counts)}"


def _counts(counts: Sequence[int], most: int = 20) -> str:
    if len(counts) <= most:
        return ", ".join(map(str, counts))
    return f"{', '.join(map(str, counts[: most // 2]))}, …, {', '.join(map(str, counts[-most // 2 :]))}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
