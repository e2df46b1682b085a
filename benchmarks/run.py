"""``python -m benchmarks.run [NAME …] [--quick] [--write]``."""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
import time
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.measure import Row, table, usable_cpus

BENCHMARKS = (
    "training_step",
    "gpu",
    "augmentation",
    "image_input",
    "trial_overhead",
    "memory",
    "driver_scale",
    "scaling",
    "nodes",
    "report_size",
    "coverage",
)
PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BUSY = 0.5


def main(argv: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description="Measure speed and memory on this machine."
    )
    p.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(BENCHMARKS)} (default: all)")
    p.add_argument("--quick", action="store_true", help="few repetitions: does it run? The numbers mean little")
    p.add_argument("--write", action="store_true", help=f"put the tables into {PAGE.parent.name}/{PAGE.name}")
    p.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    args = p.parse_args(argv)
    if args.list:
        for name in BENCHMARKS:
            doc = import_module(f"benchmarks.{name}").__doc__ or ""
            print(f"{name:16}{doc.splitlines()[0]}")
        return 0
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        p.error(f"unknown benchmark {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    if args.write and args.quick:
        p.error("--quick numbers are not for the page; leave out one of --quick and --write")

    print(machine(), flush=True)
    load = os.getloadavg()[0]
    if load > BUSY:
        print(f"The machine is busy (load {load:.1f}): trust ratios more than rates.", flush=True)
    for name in args.names or BENCHMARKS:
        module = import_module(f"benchmarks.{name}")
        started = time.perf_counter()
        rows: list[Row] = module.run(args.quick)
        text = table(rows)
        print(f"\n## {module.TITLE}\n\n{text}\n\n({time.perf_counter() - started:.0f} s)", flush=True)
        if args.write and any(row.note != "skipped" for row in rows):  # what was measured elsewhere stays
            write(PAGE, name, f"{machine()}\n\n{text}")
    return 0


def machine() -> str:
    """Hardware, versions and date in one line."""
    versions = [f"{name} {of}" for name in ("torch", "ray") if (of := _version(name))]
    versions.append(f"Python {sys.version.split()[0]}")
    return f"{cpu()}{gpu()}, {usable_cpus()} cores usable; {', '.join(versions)}; {datetime.date.today().isoformat()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a bare machine, for what needs torch only
        return ""


def gpu() -> str:
    """The device that ``benchmarks.gpu`` takes."""
    import torch

    return f", {torch.cuda.get_device_name()} (CUDA {torch.version.cuda})" if torch.cuda.is_available() else ""


def cpu() -> str:
    """The model as the kernel names it, with what matters to bf16."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown CPU"
    fields = dict(re.findall(r"^(model name|cpu family|model|flags)\s*: (.*)$", text, flags=re.MULTILINE))
    known = {"avx512_bf16": "AVX-512 BF16", "amx_bf16": "AMX BF16"}
    flags = [label for flag, label in known.items() if flag in fields.get("flags", "").split()]
    details = [f"family {fields.get('cpu family', '?')} model {fields.get('model', '?')}", *flags]
    return f"{fields.get('model name', 'unknown CPU')} ({', '.join(details)})"


def write(page: Path, name: str, text: str) -> None:
    """Replace what stands between a benchmark's markers. Raises ``ValueError`` if the page has none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = page.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise ValueError(f"{page.name} lacks the markers {begin} and {end}")
    before, after = old.split(begin)[0], old.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
