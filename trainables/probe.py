"""How fast trials train side by side and how much memory each takes, by a few steps of each: what ``resources: auto`` goes by.

``python -m trainables.probe`` is one of the processes: it reads a request from its standard input, warms up, answers ``ready``,
waits for a line, trains for a while, and answers with what it saw.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import torch

from trainables import memory
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.data.on_disk import MappedImages, Rows
from trainables.data.source import Part
from trainables.errors import NoRoom
from trainables.run_options import RunOptions
from trainables.training import _Trial

WARM_UP, SECONDS = 3, 4.0  # steps, and how long then


@dataclass(frozen=True)
class Request:
    """What a process is to train: noise of ``counts`` images a class, of so many pixels, in memory or on disk."""

    config: dict[str, object]
    counts: list[int]
    size: int
    on_disk: bool
    device: str
    threads: int


@dataclass(frozen=True)
class Seen:
    """Of one process: forward passes a second while the others trained too, and memory in bytes.

    ``peak_bytes``: the most that it held; of its GPU, 0 on CPUs: ``used_bytes``, by whomever, and ``room_bytes``, all it has.
    """

    steps_per_second: float
    peak_bytes: float
    used_bytes: float = 0.0
    room_bytes: float = 0.0


def train_together(request: Request, processes: int) -> list[Seen]:
    """So many at once; raises ``NoRoom`` with what the one that failed said."""
    words = [sys.executable, "-m", "trainables.probe"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(request.threads)}
    with ExitStack() as session:
        errors = [session.enter_context(TemporaryFile("w+", errors="replace")) for _ in range(processes)]
        pipe = subprocess.PIPE
        started = [
            subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=error, env=environment, text=True)
            for error in errors
        ]
        for process in started:
            session.callback(_end, process)
        for process in started:
            _tell(process, json.dumps(asdict(request)))
        _answers(started, errors)
        for process in started:
            _tell(process, "go")
        seen = [Seen(**json.loads(answer)) for answer in _answers(started, errors)]
        # A GPU holds more for a process than what torch has asked it for: its context, and blocks that are free again.
        return [replace(one, peak_bytes=max(one.peak_bytes, one.used_bytes / processes)) for one in seen]


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def _answers(started: Sequence[subprocess.Popen[str]], errors: Sequence[IO[str]]) -> list[str]:
    answers = [_answer(process) for process in started]
    for answer, process, error in zip(answers, started, errors, strict=True):
        if not answer:
            code = process.wait()
            error.seek(0)
            said = [line for line in error.read().splitlines() if line.strip()]
            raise NoRoom(said[-1] if said else f"its process ended with {code}")
    return answers


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(f"{line}\n")
        process.stdin.flush()
    except BrokenPipeError:  # it has died, which its missing answer tells
        pass


def _answer(process: subprocess.Popen[str]) -> str:
    """Its next line; empty if it has died."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def noise(counts: Sequence[int], size: int, few: int, on_disk: bool) -> TrialData:
    """As many images as there are; of those on disk ``few`` that stand for all."""
    random, labels = np.random.default_rng(0), np.repeat(np.arange(len(counts)), counts)
    held = min(few, len(labels)) if on_disk else len(labels)
    images: Any = random.integers(0, 256, (held, 3, size, size), dtype=np.uint8)
    if on_disk:
        with TemporaryFile() as file:
            file.write(images.tobytes())
            file.flush()
            mapped = np.memmap(file, np.uint8, "r", shape=images.shape).view(MappedImages)
        images = Rows(mapped, np.arange(len(labels)) % held)
    part, names = Part(images, labels), tuple(map(str, range(len(counts))))
    return TrialData(
        "noise", names, part, part, "test", np.asarray(counts), "noise", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    )


def measured(request: Request, begin: Callable[[], None]) -> Seen:
    """One process: warm up, wait until all of them ``begin``, train for a while."""
    config, device = TrialConfig.model_validate(request.config), torch.device(request.device)
    torch.set_num_threads(request.threads)
    memory.reset_peak(device)
    few = 4 * config.training.batch_size * config.training.accumulate
    data = noise(request.counts, request.size, few, request.on_disk)
    trial = _Trial(config, data, RunOptions(device=device))
    trial.network.train()
    trial.method.train()
    batches = itertools.chain.from_iterable(trial.feed.batches(trial.feed.steps(e), e) for e in itertools.count())

    def step() -> None:
        number, batch = next(batches)
        trial._forward_backward(number, batch)
        if number.last:
            trial._optimizer_step()

    for _ in range(WARM_UP):
        step()
    _wait(device)
    begin()
    taken, started = 0, time.perf_counter()
    while not taken or time.perf_counter() - started < SECONDS:
        step()
        taken += 1
        if taken % 8 == 0:
            _wait(device)
    _wait(device)
    passed = time.perf_counter() - started
    free, room = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
    return Seen(taken / passed, float(memory.peak(device)), float(room - free), float(room))


def main() -> None:
    """By its standard input and output."""
    request = Request(**json.loads(sys.stdin.readline()))

    def begin() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    print(json.dumps(asdict(measured(request, begin))), flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
