"""What a command's exit code means, and the one place where what was raised becomes one."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from ltsearch.store.permissions import DENIED, denied
from ltsearch.store.retries import StorageError
from trainables.errors import UserError

DONE = 0
NO_RESULT = 1  # done, but some cells have no result
WRONG_INPUT = 2  # nothing was started
STORAGE = 3  # full, or away for too long
FAULT = 70  # of ltsearch itself: there is a traceback
INTERRUPTED = 130
MEANING = (
    f"{DONE} done, {NO_RESULT} done but some cells have no result, {WRONG_INPUT} wrong input, {STORAGE} storage full or away, "
    f"{INTERRUPTED} interrupted"
)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def exit_code(work: Callable[[], int]) -> int:
    """What ``work`` returns, or what was raised in it as one message and a code."""
    try:
        return work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:  # who reads has seen enough: `--plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("\ninterrupted; nothing finished is lost, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DENIED:
            print(f"error: {denied(error, 'a file')}; nothing finished is lost", file=sys.stderr)
            return WRONG_INPUT
        if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
            print(f"error: {error}; make room: nothing finished is lost, the same command goes on", file=sys.stderr)
            return STORAGE
        traceback.print_exc()
        return FAULT
