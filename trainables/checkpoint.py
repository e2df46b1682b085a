"""Checkpoints: tensors and plain values, written atomically and loaded without running code."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

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
            torch.save(state, remembering)
        except RuntimeError:
            if remembering.error is None:
                raise
            error = remembering.error
            raise OSError(error.errno, error.strerror, str(path)) from None

    write_atomic(path, write)


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
