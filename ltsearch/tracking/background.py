"""A thread that writes to a server, in order: a slow or absent one holds up no trial, and what it takes is written once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ltsearch.tracking.server import may_pass, shown

HEARTBEAT_SECONDS = 30.0
STUCK_SECONDS, GIVE_UP_SECONDS = 120.0, 300.0  # at the end: without any write taken, and in all


class _Piece(NamedTuple):
    what: str  # for a person
    work: Callable[[], object]


class Background:
    """Pieces of work for the server at ``uri``, one after another; each is tried until it works or is refused for good."""

    def __init__(self, uri: str, beat: Callable[[], object], warn: Callable[[str], None]) -> None:
        """``beat`` is done now and then, so that others see that this writer is alive."""
        self.where, self.beat, self.warn = f"MLflow at {shown(uri)}", beat, warn
        self._pieces: queue.Queue[_Piece | None] = queue.Queue()
        self._taken = time.monotonic()  # when the server last took something
        self._thread = threading.Thread(target=self._write, daemon=True, name="mlflow-writer")

    def start(self) -> None:
        """From here on what was put is done."""
        self._thread.start()

    def put(self, what: str, work: Callable[[], object]) -> None:
        """Do this after all that was put before."""
        self._pieces.put(_Piece(what, work))

    def end(self) -> None:
        """Wait until all is written, as long as the server takes something, though not for ever."""
        self._pieces.put(None)
        begun = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.5)
            now = time.monotonic()
            if now - max(self._taken, begun) > STUCK_SECONDS or now - begun > GIVE_UP_SECONDS:
                break
        if self._thread.is_alive():
            self.warn(f"{self.where}: gave up writing what is left; the same command completes it later")

    def taken(self) -> None:
        """The server has taken a part of a piece: it is alive."""
        self._taken = time.monotonic()

    def left_out(self, what: str, error: Exception) -> None:
        """The server refuses something for good; the rest goes on."""
        self.warn(f"{self.where} refuses {what} ({said(error)}); it is left out")

    def _write(self) -> None:
        beat = time.monotonic()
        while True:
            try:
                piece = self._pieces.get(timeout=HEARTBEAT_SECONDS / 2)
            except queue.Empty:
                piece = _Piece("nothing", lambda: None)
            if piece is None:
                return
            self._insist(piece)
            if time.monotonic() - beat > HEARTBEAT_SECONDS:
                beat = time.monotonic()
                self._insist(_Piece("the heartbeat", self.beat))

    def _insist(self, piece: _Piece) -> None:
        """Do it again until it works: what comes later waits, so that the order stays and nothing is left out."""
        pause = 0.5
        while True:
            try:
                piece.work()
                self.taken()
                return
            except Exception as error:  # MLflow raises its own, requests' and SQLAlchemy's
                if not may_pass(error):
                    self.left_out(piece.what, error)
                    return
                if pause == 0.5:
                    self.warn(f"{self.where} does not take writes ({said(error)}); waiting")
                time.sleep(pause)
                pause = min(pause * 2, 10.0)


def said(error: Exception) -> str:
    """Its first line, without passwords."""
    return shown(str(error).splitlines()[0][:200] if str(error) else type(error).__name__)
