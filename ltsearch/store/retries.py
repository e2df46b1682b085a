"""What the driver writes itself is tried again for a while: a disk that is full, or a store that is away, for some minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from ltsearch.store.permissions import DENIED

GIVE_UP_SECONDS = 300.0
PAUSE_SECONDS = 5.0

Result = TypeVar("Result")


class StorageError(OSError):
    """The storage took no writes for so long that the sweep cannot go on."""


def patiently(work: Callable[[], Result], say: Callable[[str], None] = print) -> Result:
    """What ``work`` returns; it is done again after an ``OSError``, and must bear that. Raises ``StorageError`` in the end."""
    begun, told = time.monotonic(), False
    while True:
        try:
            return work()
        except StorageError:
            raise
        except OSError as error:
            why = error.strerror or str(error)
            if error.errno in DENIED:
                raise StorageError(
                    error.errno, f"the storage may not be written to ({why}: {error.filename})"
                ) from None
            if time.monotonic() - begun > GIVE_UP_SECONDS:
                raise StorageError(
                    error.errno, f"the storage took no writes for {GIVE_UP_SECONDS:g} s ({why})"
                ) from None
            if not told:
                say(f"the storage takes no writes ({why}); waiting up to {GIVE_UP_SECONDS:g} s")
                told = True
            time.sleep(PAUSE_SECONDS)
