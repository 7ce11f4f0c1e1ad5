"""Writing files so that nothing is ever half written: one file, or several that belong together."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from qat.errors import QatError

try:
    import fcntl
except ModuleNotFoundError:  # Windows: two writers are not kept apart there, and what a killed one left stays
    fcntl = None  # type: ignore[assignment]

TRIES = 5  #: how often a temporary file that something else has removed is written
RANDOM = 6  #: bytes in the name of a temporary file


def check_writable(path: str | Path) -> None:
    """Raise QatError where a file cannot be written, before hours of work are spent on its content."""
    path = Path(path)
    folder = _target(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise QatError(
            f"{path}: cannot be written in {folder} ({error.strerror or error}); choose another place"
        ) from None


def check_distinct(output: str | Path, source: str | Path, flags: str) -> None:
    """Raise QatError where a command would write over what it reads. flags: which two arguments name them."""
    if os.path.realpath(output) == os.path.realpath(source):
        raise QatError(f"{output}: {flags} name the same file, which would be overwritten; give another name to write")


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` as a whole: a crash leaves the old file or the new one.

    A file that is replaced keeps its permissions, and its owner where that is allowed; a symbolic link stays, and what it
    points to is replaced. Raises QatError naming the path and the system's reason (a full disk, a read-only folder); the
    old file stays.
    """
    path = Path(path)
    target = _target(path)
    try:
        with _Draft(target, content) as draft:
            draft.put()
        _sync_folders([target])
    except OSError as error:
        raise _not_written(path, error, [path]) from None


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace several files of one folder, as a whole: whoever reads them by ``read_together`` finds all old or all new.

    All contents are kept in a record beside the first file, ``.<name>.pending``, which appears at once; then the files are
    replaced, and the record goes. Where a process is killed before the record is there, the old files are untouched; after
    it, the next that reads or writes these files finishes the work. Raises QatError as ``write_atomically`` does.
    """
    paths = list(contents)
    if len(paths) == 1:
        return write_atomically(paths[0], contents[paths[0]])
    first, record = paths[0], _record(paths[0])
    targets = {path: _target(path) for path in paths}
    committed = replaced = False
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        with _locked(first.parent), contextlib.ExitStack() as stack:
            _settle(paths)
            # Whatever takes space is written before anything is replaced.
            drafts = [stack.enter_context(_Draft(targets[path], content)) for path, content in contents.items()]
            stack.enter_context(_Draft(record, _recorded(contents))).put()
            committed = True
            _sync_folders([record])
            for draft in drafts:
                draft.put()
                replaced = True
            _sync_folders(targets.values())
            with contextlib.suppress(OSError):  # it says no more than what is there
                record.unlink()
    except OSError as error:
        if not replaced:
            if committed:
                record.unlink(missing_ok=True)
            raise _not_written(first, error, paths) from None
        raise QatError(
            f"{first}: not all of {', '.join(path.name for path in paths)} could be replaced ({error.strerror or error}); the "
            f"rest is kept in {record}, and the next command that reads or writes them puts it in place"
        ) from None


def read_together(*paths: Path) -> list[bytes]:
    """The contents of files that ``write_together`` wrote, all of one writing. Raises OSError for one that cannot be read."""
    with _locked(paths[0].parent):
        try:
            _settle(paths)
        except OSError:  # a folder that may only be read
            pending = _pending(paths)
            if pending is not None:
                return list(pending.values())
        for path in paths:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise OSError(errno.EINVAL, "it is no file", str(path))
        return [path.read_bytes() for path in paths]


# -- one file ---------------------------------------------------------------------------------------------------------


def _target(path: Path) -> Path:
    """What is written for ``path``: the end of a symbolic link. Raises QatError where something else than a file is there:
    a folder, or a device as /dev/null; and for a name that nobody would have typed, whose line breaks would come into every
    list of files.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in str(path)):
        raise QatError(f"{path}: its name holds a line break or another control character; choose another name")
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no file but a device or a pipe"
        raise QatError(f"{path}: is {what}, which is not written over; give the name of a file to write")
    if not os.path.islink(path):
        return path
    try:
        os.stat(path)
    except FileNotFoundError:  # what it points to is to be written
        pass
    except OSError as error:  # a loop, or another user's link in a folder for all, which the system does not follow
        raise QatError(
            f"{path}: is a symbolic link that is not followed ({error.strerror}); remove it, or give another name to write"
        ) from None
    return Path(os.path.realpath(path))


def _not_written(path: Path, error: OSError, paths: Sequence[Path]) -> QatError:
    """Nothing has been replaced, so what was there is as it was."""
    there = sum(os.path.isfile(path) for path in paths)
    kept = "; the file that was there is unharmed" if there else ""
    if len(paths) > 1 and there:
        kept = f"; {', '.join(path.name for path in paths)} are as they were"
    return QatError(
        f"{path}: cannot be written ({error.strerror or error}){kept}; free some space or choose another place"
    )


class _Draft:
    """A temporary file beside ``target`` with its new content, on the disk when entered, and gone when left.

    Its writer holds a lock on it, which the system releases when the writer dies: a draft whose lock can be had is one that
    was left behind, whatever the clocks say.
    """

    def __init__(self, target: Path, content: bytes) -> None:
        self._target, self._content = target, content
        self._path: Path | None = None
        self._handle = -1

    def __enter__(self) -> _Draft:
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
        """Replace the target."""
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
            # The system takes the umask off. What only few may read, nobody else can in between.
            self._handle = os.open(path, flags, 0o666 if old is None else 0o600)
            self._path = path
            _lock(self._handle)
            if os.path.exists(path):
                break
            self._close()  # another writer has cleared it before it was locked
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
    """Give a file the owner, the group and the permissions of another, as far as that is allowed."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if hasattr(os, "chown"):
        try:
            os.chown(path, -1, old.st_gid)
        except OSError:
            mode &= 0o707  # what its group may do is not for another group
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, -1)
    os.chmod(path, mode)


def _clear_abandoned(target: Path) -> None:
    """Remove what a process that was killed while it wrote ``target`` has left: the drafts that nobody holds a lock on."""
    draft = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * RANDOM}}}\.tmp")
    with contextlib.suppress(OSError):  # a folder that may not be listed
        for name in filter(draft.fullmatch, os.listdir(target.parent)):
            _clear(target.with_name(name))


def _clear(path: Path) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.lstat(path).st_mode):
            handle = os.open(path, os.O_RDWR)
            try:
                if _lock(handle, wait=False):
                    os.unlink(path)
            finally:
                os.close(handle)


def _lock(handle: int, *, wait: bool = True) -> bool:
    """Lock an open file or folder; False where another holds the lock, and where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _sync_folders(paths: Iterable[Path]) -> None:
    """Let the renaming of these files survive a power cut, where the system can do that."""
    for folder in {path.parent for path in paths}:
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


# -- several files ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system has locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def _record(first: Path) -> Path:
    return first.with_name(f".{first.name}.pending")


def _recorded(contents: Mapping[Path, bytes]) -> bytes:
    """A line with the digest of the rest; a line of JSON, of each file the digest of what was there and the size of what is
    to come; the new contents.
    """
    entries = {path.name: (_digest_of(path), len(content)) for path, content in contents.items()}
    body = b"".join([json.dumps(entries).encode(), b"\n", *contents.values()])
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _digest_of(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _pending(paths: Sequence[Path]) -> dict[Path, bytes] | None:
    """What a killed ``write_together`` meant to write; None where there is no such record of these very files, or another
    hand has changed one of them since: it is neither what was there then nor what was to come.
    """
    record = _record(paths[0])
    try:
        if not record.is_file():
            return None
        digest, _, body = record.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        line, _, body = body.partition(b"\n")
        entries = json.loads(line)
        if list(entries) != [path.name for path in paths]:
            return None
        contents, start = {}, 0
        for path in paths:
            before, size = entries[path.name]
            contents[path] = content = body[start : start + size]
            start += size
            if _digest_of(path) not in (before, hashlib.sha256(content).hexdigest()):
                return None
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return contents


def _settle(paths: Sequence[Path]) -> None:
    """Finish what a killed ``write_together`` has begun. Raises OSError where that cannot be written."""
    record = _record(paths[0])
    if not record.is_file():
        return
    targets = {_target(path): content for path, content in (_pending(paths) or {}).items()}
    for target, content in targets.items():
        with _Draft(target, content) as draft:
            draft.put()
    _sync_folders(targets)
    record.unlink()
