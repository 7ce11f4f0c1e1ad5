"""Temporary files that become others when they are finished, and the locks that keep their writers apart."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: there are no locks between writers there, and drafts of killed ones stay
    fcntl = None  # type: ignore[assignment]

TRIES = 5  #: attempts to write a temporary file that another program removes
RANDOM = 6  #: bytes in the name of a temporary file
WAIT, STEP = 5.0, 0.0005  #: seconds to wait for a lock, which any user may hold; seconds between two attempts


class Draft:
    """A temporary file beside ``target`` with its new content. It is on the disk when entered, and removed when left.

    Its writer holds a lock on it, which the system releases when the writer dies. So a draft that can be locked was
    left behind by a killed process; no clock is needed to know it.

    Args:
        target: the file that it is to replace.
        content: of the new file.
    """

    def __init__(self, target: Path, content: bytes) -> None:
        self._target, self._content = target, content
        self._path: Path | None = None
        self._handle = -1

    def __enter__(self) -> Draft:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(self._target)
        try:
            self._write()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._path = None
        self._close()

    def put(self) -> None:
        """Replace the target by the draft."""
        for left in reversed(range(TRIES)):
            assert self._path is not None, "it is put once"
            if fcntl is None:  # Windows renames no file that is open
                self._close()
            try:
                os.replace(self._path, self._target)
            except FileNotFoundError:
                if not left:
                    raise
                self.__exit__()
                self._write()
                continue
            self._path = None
            self._close()
            return

    def _write(self) -> None:
        try:
            old = os.stat(self._target)
        except FileNotFoundError:
            old = None
        for _ in range(TRIES):
            path = self._target.with_name(f".{self._target.name}.{secrets.token_hex(RANDOM)}.tmp")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            # The system applies the umask. A file that was private stays private while it is replaced.
            self._handle = os.open(path, flags, 0o666 if old is None else 0o600)
            self._path = path
            _lock(self._handle, WAIT)
            if os.path.exists(path):
                break
            self._close()  # another writer removed it before it was locked
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with os.fdopen(self._handle, "wb", closefd=False) as file:
            file.write(self._content)
            file.flush()
            if old is not None:
                _take_over(path, old)
            os.fsync(self._handle)

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _take_over(path: Path, old: os.stat_result) -> None:
    """Copy owner, group and permissions from another file, as far as the system allows."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if hasattr(os, "chown"):
        try:
            os.chown(path, -1, old.st_gid)
        except OSError:
            mode &= 0o707  # the permissions of one group must not go to another
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, -1)
    os.chmod(path, mode)


def _clear_abandoned(target: Path) -> None:
    """Remove the drafts that killed writers of ``target`` have left: those without a lock."""
    draft = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * RANDOM}}}\.tmp")
    with contextlib.suppress(OSError):  # a folder that may not be listed
        for name in filter(draft.fullmatch, os.listdir(target.parent)):
            _clear(target.with_name(name))


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            handle = os.open(path, os.O_RDWR)
            try:
                if _lock(handle, 0):
                    os.unlink(path)
            finally:
                os.close(handle)


def _lock(handle: int, wait: float) -> bool | None:
    """Lock an open file or folder; False where another process still has the lock after ``wait`` seconds, None where the
    system has no locks.
    """
    end = time.monotonic() + wait
    while fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(STEP)
        except OSError:
            break
        else:
            return True
    return None


def sync_folders(paths: Iterable[Path]) -> None:
    """Make the renaming of these files survive a power cut, where the system can."""
    for folder in {path.parent for path in paths}:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder against other processes, where the file system has locks.

    Args:
        folder: to be locked.

    Yields:
        False where another process still holds the lock after WAIT seconds, else True.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        yield _lock(handle, WAIT) is not False
    finally:
        if fcntl is not None:  # closing alone keeps the lock where a process was forked meanwhile
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)
