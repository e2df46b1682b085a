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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import torch

from trainables import memory
from trainables.config import TrialConfig
from trainables.data.longtail import TrialData
from trainables.data.source import Part
from trainables.errors import NoRoom
from trainables.run_options import RunOptions
from trainables.training import _Trial

WARM_UP, SECONDS = 3, 4.0  # steps, and how long then


@dataclass(frozen=True)
class Request:
    """What a process is to train: images are noise, of so many classes and pixels."""

    config: dict[str, object]
    classes: int
    size: int
    device: str
    threads: int


@dataclass(frozen=True)
class Seen:
    """Of one process: forward passes a second while the others trained too, and memory in bytes.

    ``peak_bytes``: the most that it held; ``room_bytes``: all that its GPU has, 0 on CPUs.
    """

    steps_per_second: float
    peak_bytes: float
    room_bytes: float = 0.0


def side_by_side(request: Request, processes: int) -> list[Seen]:
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
        return [Seen(**json.loads(answer)) for answer in _answers(started, errors)]


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


def noise(classes: int, size: int, batch: int) -> TrialData:
    """Enough images for a few batches."""
    random = np.random.default_rng(0)
    number = max(4 * batch, 2 * classes)
    part = Part(random.integers(0, 256, (number, 3, size, size), dtype=np.uint8), np.arange(number) % classes)
    names, counts = tuple(map(str, range(classes))), np.bincount(part.labels, minlength=classes)
    return TrialData("noise", names, part, part, "test", counts, "noise", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def main(lines: Sequence[str] = ()) -> None:
    """One process."""
    told = iter(lines) if lines else iter(sys.stdin.readline, "")
    request = Request(**json.loads(next(told)))
    config, device = TrialConfig.model_validate(request.config), torch.device(request.device)
    torch.set_num_threads(request.threads)
    memory.reset_peak(device)
    trial = _Trial(config, noise(request.classes, request.size, config.training.batch_size), RunOptions(device=device))
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
    print("ready", flush=True)
    next(told)
    taken, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS:
        step()
        taken += 1
        if taken % 8 == 0:
            _wait(device)
    _wait(device)
    passed = time.perf_counter() - started
    room = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
    print(json.dumps(asdict(Seen(taken / passed, float(memory.peak(device)), float(room)))), flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
