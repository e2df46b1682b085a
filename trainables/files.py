"""Places for checkpoints and records: a local or shared folder, or one of a file system that pyarrow knows (S3, GCS, …)."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from trainables.errors import UserError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://")
OWN = "own"  # in a cell's folder: what a trainable of the user's own keeps there
ASIDE = ".aside"  # what such a file is called behind its own name
_OBJECT_STORES = ("s3", "gcs", "abfs")  # an object is there whole or not at all


def raw(name: str) -> str:
    """A name that is not UTF-8, as the bytes that it is on disk, where it can be there."""
    try:
        return repr(os.fsencode(name))
    except UnicodeEncodeError:
        return ascii(name)


def shown(place: object) -> str:
    """A path for a message, whatever bytes its name has."""
    return str(place).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


@dataclass(frozen=True)
class RemotePath:
    """A path below a pyarrow file system, with the few methods of ``pathlib.Path`` that are needed.

    Holds the URI only, so that it can be sent to other processes. Methods raise ``OSError``.
    """

    uri: str

    @cached_property
    def _place(self) -> tuple[Any, str]:
        from pyarrow import fs

        system, path = fs.FileSystem.from_uri(self.uri)
        return system, path

    def __truediv__(self, name: str) -> RemotePath:
        base, mark, query = self.uri.partition("?")
        child = RemotePath(f"{base.rstrip('/')}/{name}{mark}{query}")
        if "_place" in self.__dict__:  # one connection for all that lies below
            system, path = self._place
            child.__dict__["_place"] = (system, f"{path.rstrip('/')}/{name}")
        return child

    def __str__(self) -> str:
        return self.uri

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        """Without the connection: where it is sent, it connects by that process's own environment."""
        return RemotePath, (self.uri,)

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> RemotePath:
        """The folder that it lies in."""
        base, mark, query = self.uri.partition("?")
        return RemotePath(f"{base.rstrip('/').rpartition('/')[0]}{mark}{query}")

    def exists(self) -> bool:
        """Is there a file or folder?"""
        from pyarrow import fs

        system, path = self._place
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)

    def read_bytes(self) -> bytes:
        """The whole file."""
        system, path = self._place
        with system.open_input_file(path) as file:
            content: bytes = file.read()
            return content

    def read_text(self) -> str:
        """The whole file, in UTF-8."""
        return self.read_bytes().decode()

    def names(self) -> list[str]:
        """Names of the files of a folder, sorted; none if it is not there."""
        from pyarrow import fs

        system, path = self._place
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(str(info.base_name) for info in found)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        system, path = self._place
        try:
            system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except OSError:
            # Not all of them tell a missing file by the error's type.
            if self.exists() or not missing_ok:
                raise

    def write(self, content: bytes) -> None:
        """Replace the file: a reader sees the old content or the new."""
        system, path = self._place
        if system.type_name in _OBJECT_STORES:
            _put(system, path, content)
            return
        folder, _, name = path.rpartition("/")
        system.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            _put(system, temporary, content)
            system.move(temporary, path)
        except BaseException:
            if RemotePath.exists(self._sibling(temporary)):
                system.delete_file(temporary)
            raise

    def _sibling(self, path: str) -> RemotePath:
        sibling = RemotePath(self.uri)
        sibling.__dict__["_place"] = (self._place[0], path)
        return sibling


def _put(system: Any, path: str, content: bytes) -> None:
    with system.open_output_stream(path) as stream:
        stream.write(content)


Location = Path | RemotePath


class NotRegular(OSError):
    """What lies there is no file that can be read to its end: a FIFO, a device, a socket."""


def read_regular(path: Path, most: int | None = None) -> bytes:
    """A file's content; never waits for a FIFO's writer, and reads no device.

    Raises ``OSError``: ``NotRegular`` for what is no file, or is longer than ``most`` bytes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
            raise NotRegular(errno.EINVAL, f"not a file, but {kinds.get(stat.S_IFMT(mode), 'a device')}", str(path))
        content = file.read() if most is None else file.read(most + 1)
    if most is not None and len(content) > most:
        raise NotRegular(errno.EFBIG, f"longer than {most // 2**20} MiB", str(path))
    return content


def encodable(text: str) -> bool:
    """Can it be written in UTF-8, and be a path? Names of files need not be UTF-8; Python then shows bytes as surrogates."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def location(text: str | Path | RemotePath) -> Location:
    """A local path, made absolute, or a URI; raises ``UserError`` for one that cannot be used."""
    if isinstance(text, RemotePath):
        return text
    if isinstance(text, Path) or not _SCHEME.match(text):
        return Path(text).expanduser().absolute()
    parts = urlsplit(text)
    if parts.scheme == "file":
        return Path(parts.path)
    shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
    if parts.password is not None or parts.username is not None:
        raise UserError(
            f"--storage {shown}: a URI with credentials would end up in logs; leave them out and set the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, …) or the host's role"
        )
    try:
        place = RemotePath(text)
        if not place._place[1].strip("/"):
            raise ValueError("no bucket is named")
    except (ValueError, OSError, NotImplementedError, ImportError) as error:
        raise UserError(
            f"--storage {shown}: {_first_line(error)}; use a folder, or a URI that pyarrow knows, such as "
            "s3://bucket/folder or gs://bucket/folder"
        ) from None
    return place


def write_atomic(path: Location, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader sees the old content or the new, never half of either, whenever the writer is killed.

    In a folder: to a neighbour that is flushed to disk and renamed over ``path``. The old file stays if anything fails.
    """
    if isinstance(path, RemotePath):
        buffer = BytesIO()
        write(buffer)
        path.write(buffer.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Location, text: str) -> None:
    """The same for a text in UTF-8."""
    write_atomic(path, lambda file: file.write(text.encode()))


def keep_aside(path: Location) -> Location | None:
    """Rename a file that is not to be used and not to be lost; where it is now, None if there was none."""
    number = 1
    while True:
        aside = path.parent / f"{path.name}{ASIDE}{f'-{number}' if number > 1 else ''}"
        if not (aside.exists() or (isinstance(aside, Path) and aside.is_symlink())):
            break
        number += 1
    try:
        if isinstance(path, Path) and isinstance(aside, Path):
            os.rename(path, aside)
        else:
            write_atomic(aside, lambda file: file.write(path.read_bytes()))
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return None
    return aside


def fetch(path: Location, folder: Path) -> Path:
    """A local file with the content of ``path``: itself, or a copy in ``folder``."""
    if isinstance(path, Path):
        return path
    copy = folder / path.name
    with open(copy, "wb") as file:
        shutil.copyfileobj(BytesIO(path.read_bytes()), file)
    return copy


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
