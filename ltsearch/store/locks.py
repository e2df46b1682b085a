"""One driver a sweep."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from ltsearch.store import conditional
from ltsearch.store.permissions import DENIED, denied
from trainables.errors import UserError
from trainables.files import Location, RemotePath

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
BEAT_SECONDS = 10.0
DEAD_SECONDS = 40.0
RECENT_SECONDS = 600.0  # clocks of two hosts may differ so much


def sweep_lock(folder: Location, say: Callable[[str], None] = print) -> SweepLock | RemoteLock:
    """The lock of a sweep's folder. Both raise ``UserError`` on entering if another driver holds it."""
    return RemoteLock(folder, say) if isinstance(folder, RemotePath) else SweepLock(folder, say)


def holder(folder: Location) -> tuple[int, str] | None:
    """Process and host that hold a sweep's lock; None if nobody does. The host is empty for this machine."""
    if isinstance(folder, RemotePath):
        lock = RemoteLock(folder, print)
        held = lock.read()
        if held is None or lock.dead_here(held):
            return None
        here = (held["host"], held.get("machine")) == (socket.gethostname(), _machine())
        return int(held["pid"]), "" if here else str(held["host"])
    if (said := _said(folder)) is None:
        return None
    pid, host, _ = said
    return pid, "" if host == socket.gethostname() else host


def held_mark(folder: Path) -> str | None:
    """What tells the run of the command that holds a sweep's lock in a folder from others; None if nobody holds it."""
    said = _said(folder)
    return said[2] if said is not None else None


def touched(folder: Path, mark: str) -> int | None:
    """When a lock in a folder was last renewed, in nanoseconds by whatever clock; None if it has another ``mark``."""
    try:
        with open(folder / "lock") as file:
            return os.fstat(file.fileno()).st_mtime_ns if file.read().rpartition(" ")[2] == mark else None
    except FileNotFoundError:
        return None


def current_mark(folder: Location) -> str | None:
    """The same, wherever the folder lies, and whether this host sees locks of others: what was renewed of late is held."""
    if not isinstance(folder, RemotePath):
        if (mark := held_mark(folder)) is not None:
            return mark
        with suppress(OSError), open(folder / "lock") as file:
            _, _, rest = file.read().partition(" on ")
            host, _, mark = rest.partition(" ")
            if (
                host not in ("", socket.gethostname())
                and time.time() - os.fstat(file.fileno()).st_mtime < RECENT_SECONDS
            ):
                return mark
        return None
    held = RemoteLock(folder, print).read()
    return str(held["mark"]) if held is not None and not RemoteLock.dead_here(held) else None


def _said(folder: Path) -> tuple[int, str, str] | None:
    """Process, host and mark in a lock that is held; None for one that is not, or is being taken just now."""
    try:
        with open(os.open(folder / "lock", os.O_RDONLY | os.O_NONBLOCK)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                pid, _, host, *mark = file.read().split()
                return int(pid), host, "".join(mark)
    except (FileNotFoundError, ValueError):
        pass
    return None


def _machine() -> str:
    """What tells this machine, as it is booted now and in this process namespace, from others of the same host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x}"


def _held(sweep: str, holder: str) -> UserError:
    return UserError(
        f"{sweep} is already being run ({holder}) on this storage; wait for it, stop it, or name another --storage"
    )


class SweepLock:
    """In a folder: an advisory lock that the kernel drops when its holder dies, however it dies.

    Some network file systems keep such locks to the host that took them. So the holder also touches the file every now and
    then, and empties it when it lets go: another host that finds it full watches it first.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        """``folder`` is the sweep's; ``say`` is told when a lock from another host is waited for."""
        self.path, self.sweep, self.say = folder / "lock", folder.name, say
        self.mark = uuid.uuid4().hex
        self.file: Any = None
        self._made: list[Path] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lock")

    def __enter__(self) -> Self:
        """Raises ``UserError`` if another driver holds it."""
        try:
            self._made = [place for place in self.path.parents if not place.exists()]  # the lowest first
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+")
        except OSError as error:
            if error.errno in DENIED:
                raise denied(error, self.path) from None
            raise
        try:
            self._lock()
        except OSError as error:
            self.file.seek(0)
            holder = self.file.read().rpartition(" ")[0] or "unknown"
            self.file.close()
            if error.errno in NO_LOCKS:
                raise UserError(
                    f"{self.path}: this file system has no locks ({error.strerror}), which keep two drivers of a sweep apart; "
                    "on NFS, see that its lock service runs (`rpc.statd`, or NFS 4), or name another --storage"
                ) from None
            raise _held(self.sweep, f"process {holder}") from None
        try:
            self._watch()
        except BaseException:
            self.file.close()
            raise
        self.file.truncate(0)
        self.file.write(f"{os.getpid()} on {socket.gethostname()} {self.mark}")
        self.file.flush()
        os.fsync(self.file.fileno())
        self._thread.start()
        return self

    def _watch(self) -> None:
        """A lock that was not let go of, from a host whose locks may not be seen here: raises ``UserError`` if it is alive."""
        self.file.seek(0)
        pid, _, host = self.file.read().rpartition(" ")[0].partition(" on ")
        touched = os.fstat(self.file.fileno()).st_mtime_ns
        if host in ("", socket.gethostname()) or time.time() - touched / 1e9 > DEAD_SECONDS + RECENT_SECONDS:
            return
        holder = f"process {pid} on {host}"
        self.say(f"{self.sweep}: {holder} had it; waiting up to {DEAD_SECONDS:g} s to see whether it is alive")
        deadline = time.monotonic() + DEAD_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.5)
            with open(self.path) as again:  # opened anew, since network file systems look at the server only then
                if os.fstat(again.fileno()).st_mtime_ns != touched:
                    raise _held(self.sweep, holder)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with suppress(OSError):  # tried again at the next beat
                if not self._is_mine():
                    # This process was asleep, or cut off, for so long that another has taken over: two must not write.
                    self.say(f"{self.sweep}: another driver has taken over while this one was away; it ends here")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                os.utime(self.path)

    def _is_mine(self) -> bool:
        return self.path.read_text().rpartition(" ")[2] == self.mark

    def _lock(self) -> None:
        for left in range(5, -1, -1):  # who looks whether it is held holds it for a moment
            try:
                return fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not left:
                    raise
                time.sleep(0.05)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go. Of a sweep that was refused before it wrote anything, nothing is left."""
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            if self._is_mine():
                self.file.truncate(0)
        if kind is not None and issubclass(kind, UserError) and self._made:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # something else lies there
                for place in self._made:
                    place.rmdir()
        self.file.close()


class RemoteLock:
    """In an object store: an object that its holder renews, and that counts for nothing once it has not been renewed.

    On S3 one of two drivers gets it (``conditional``). Elsewhere two that start within the same second are told apart by
    reading back what was written.
    """

    def __init__(self, folder: RemotePath, say: Callable[[str], None]) -> None:
        """``folder`` is the sweep's; ``say`` is told when a dead driver's lock is waited for."""
        self.path, self.sweep, self.say = folder / "lock.json", folder.name, say
        self.mark = uuid.uuid4().hex
        self._seen: bytes | None = None  # the object as it was last read
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lock")

    def __enter__(self) -> Self:
        """Raises ``UserError`` if another driver holds it; waits until a dead one's has run out."""
        held = self.read()
        if held is not None and not self.dead_here(held):
            self._wait_out(held)
        self._write()
        time.sleep(1.0)  # some servers take S3's conditions and do not know them
        now = self.read()
        if now is None or now["mark"] != self.mark:
            raise _held(self.sweep, _holder(now))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self._over.set()
        self._thread.join()
        try:
            held = self.read()
            if held is not None and held["mark"] == self.mark:
                self.path.unlink(missing_ok=True)
        except OSError:  # it runs out by itself
            pass

    def _wait_out(self, held: dict[str, Any]) -> None:
        """Clocks of two machines differ, so the lock is watched: it is alive if it is renewed."""
        self.say(f"{self.sweep}: {_holder(held)} had it; waiting up to {DEAD_SECONDS:g} s to see whether it is alive")
        deadline = time.monotonic() + DEAD_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1.0)
            try:
                now = self.read()
            except OSError:  # nothing is known then
                continue
            if now is None:
                return
            if now != held:
                raise _held(self.sweep, _holder(now))

    @staticmethod
    def dead_here(held: dict[str, Any]) -> bool:
        """Was the holder a process of this machine that is gone?"""
        if (held["host"], held.get("machine")) != (socket.gethostname(), _machine()):
            return False
        try:
            os.kill(int(held["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                held = self.read()
                if held is not None and held["mark"] != self.mark:
                    # This process was asleep, or cut off, for so long that another has taken over: two must not write.
                    self.say(f"{self.sweep}: {_holder(held)} has taken over while this driver was away; it ends here")
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                self._write()
            except OSError:  # tried again at the next beat
                pass

    def _write(self) -> None:
        """Put it there, unless somebody has written since it was read."""
        holder = {"mark": self.mark, "host": socket.gethostname(), "machine": _machine(), "pid": os.getpid()}
        content = json.dumps({**holder, "beat": time.time()}).encode()
        if conditional.replace(self.path, content, self._seen) is None:
            self.path.write(content)

    def read(self) -> dict[str, Any] | None:
        """Who holds it; None if nobody does. Raises ``OSError`` if the store does not answer: that is not the same."""
        try:
            self._seen = self.path.read_bytes()
            held: dict[str, Any] = json.loads(self._seen)
            return held
        except FileNotFoundError:
            self._seen = None
        except ValueError:
            pass
        return None


def _holder(held: dict[str, Any] | None) -> str:
    return f"process {held['pid']} on {held['host']}" if held else "another process"
