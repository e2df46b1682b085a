"""May this user read and write what a sweep needs? Looked at before anything starts, and told in one message."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from trainables.errors import UserError
from trainables.files import shown

DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)  # waiting does not help
_MOST = 5  # problems that are named


def may(path: Path, how: int) -> bool:
    """``os.access`` for the user as whom this process acts."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def folder_problem(folder: Path) -> str | None:
    """Why files cannot be put into a folder; None if they can, or if it is not there yet."""
    try:
        kind = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"{shown(folder)} cannot be looked at ({error.strerror})"
    if not stat.S_ISDIR(kind.st_mode):
        return f"{shown(folder)} is not a folder"
    if not may(folder, os.R_OK | os.W_OK | os.X_OK):
        return f"{shown(folder)} is not writable ({_whose(kind)})"
    return None


def file_problem(file: Path, *, write: bool) -> str | None:
    """Why a file cannot be read, or be written to in place; None if it can, or if it is not there."""
    try:
        kind = file.stat()
    except OSError:
        return None
    wanted = os.R_OK | (os.W_OK if write else 0)
    if not may(file, wanted):
        return f"{shown(file)} is not {'writable' if may(file, os.R_OK) else 'readable'} ({_whose(kind)})"
    return None


def replace_problem(file: Path) -> str | None:
    """Why another file cannot be renamed over this one although its folder is writable: a sticky folder, another owner."""
    try:
        kind, folder = file.lstat(), file.parent.stat()
    except OSError:
        return None
    me = os.geteuid()
    if folder.st_mode & stat.S_ISVTX and me not in (0, kind.st_uid, folder.st_uid):
        return f"{shown(file)} cannot be replaced ({_whose(kind)}, and its folder lets owners only)"
    return None


def refuse(where: str, problems: Iterable[str | None], way_out: str) -> None:
    """Raises one ``UserError`` for all problems there are."""
    found = [problem for problem in problems if problem is not None]
    if found:
        more = f", and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise UserError(
            f"{where}: {'; '.join(found[:_MOST])}{more}; this command runs as {_name(os.geteuid())}: let the owner "
            f"open it (`chmod -R g+rwX` for a common group), or {way_out}"
        )


def denied(error: OSError, path: object) -> UserError:
    """For a read or write that was refused after all."""
    return UserError(
        f"{shown(error.filename or path)}: {error.strerror or error}, for {_name(os.geteuid())}; let its owner open it "
        "(`chmod -R g+rwX` for a common group), or name another --storage"
    )


def _whose(kind: os.stat_result) -> str:
    return f"of {_name(kind.st_uid)}, mode {stat.S_IMODE(kind.st_mode):03o}"


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
