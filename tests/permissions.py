"""Being another user: permissions mean nothing to root, who runs the tests in containers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter and write to; those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="lt-public-") as name:
        os.chmod(name, 0o777)
        yield Path(name)


@contextmanager
def another_user() -> Iterator[None]:
    """As a user who owns nothing; whoever is not root stays who he is, and is kept out by the modes of his own files.

    What is imported late is to be imported before: the installation may be closed to others.
    """
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
