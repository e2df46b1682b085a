"""Checkpoints: tensors and plain values, written atomically and loaded without running code."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, cast

import torch

from trainables.files import Location, RemotePath, write_atomic


class _Remembering:
    """A file that remembers why a write failed: torch only tells that its position is not what it should be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save(path: Location, state: dict[str, Any]) -> None:
    """A checkpoint of tensors and plain values; the old one stays if writing fails, with ``OSError`` such as a full disk."""

    def write(file: BinaryIO) -> None:
        remembering = _Remembering(file)
        try:
            torch.save(state, cast(BinaryIO, remembering))
        except RuntimeError:
            if remembering.error is None:
                raise
            error = remembering.error
            raise OSError(error.errno, error.strerror, str(path)) from None

    write_atomic(path, write)


FILE = "checkpoint.pt"


def find(folder: Location, epochs: int) -> tuple[dict[str, Any] | None, str]:
    """The checkpoint of a run of so many epochs, or None with what to tell if something else lies there."""
    path = folder / FILE
    state = load(path)
    if state is None:
        return None, unusable(folder, "is damaged") if path.exists() else ""
    epoch = state.get("epoch")
    if not isinstance(epoch, int) or not (0 < epoch < epochs or (epoch == 0 and state.get("within"))):
        return None, unusable(folder, f"does not fit (epoch {epoch!r} of {epochs})")
    return state, ""


def unusable(folder: Location | None, why: str) -> str:
    """What to tell of a checkpoint that is not gone on from; the next one is written over it."""
    place = folder / FILE if folder is not None else FILE
    return f"{place} {why}: the trial is trained from its first epoch"


def load(path: Location) -> dict[str, Any] | None:
    """The checkpoint; None if there is none, or what lies there is none. Loads tensors and plain values only, never code."""
    try:
        source = io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except OSError:
        raise
    except Exception:  # a damaged file, or a stranger's: what unpickling raises then has no end
        return None
    return state if isinstance(state, dict) else None
