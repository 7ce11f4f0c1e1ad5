"""Writing files such that none is ever half written: one file, or several that belong together."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from qat.drafts import Draft, locked, sync_folders
from qat.errors import QatError

LARGEST = 1 << 31  #: bytes of a file that is read as a whole


def check_writable(path: str | Path) -> None:
    """Check that a file can be written, before hours of work are spent on its content.

    Nothing is left behind: where another argument turns out to be wrong, there is no empty folder.

    Args:
        path: of the file; whoever writes it creates its folder.

    Raises:
        QatError: where it cannot.
    """
    path = Path(path)
    folder = _target(path).parent
    made: list[Path] = []
    try:
        for each in reversed([folder, *folder.parents]):
            with contextlib.suppress(FileExistsError):
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise QatError(
            f"{path}: cannot be written in {folder} ({error.strerror or error}); choose another place"
        ) from None
    finally:
        for each in reversed(made):
            with contextlib.suppress(OSError):
                each.rmdir()


_WATCHING: list[list[Path]] = []  #: who wants to know what is written


@contextlib.contextmanager
def watched_writes() -> Iterator[list[Path]]:
    """Note which files are written.

    Yields:
        Their paths, in the order in which they were finished; one that is written twice stands there twice.
    """
    found: list[Path] = []
    _WATCHING.append(found)
    try:
        yield found
    finally:
        _WATCHING[:] = [each for each in _WATCHING if each is not found]


def _note(paths: Sequence[Path]) -> None:
    for found in _WATCHING:
        found += paths


def check_distinct(output: str | Path, source: str | Path, flags: str) -> None:
    """Raise QatError where a command would overwrite its own input. flags: the two arguments, for the message."""
    if os.path.realpath(output) == os.path.realpath(source):
        raise QatError(f"{output}: {flags} name the same file, which would be overwritten; give another name to write")


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace a file as a whole: after a crash there is the old content or the new one.

    A replaced file keeps its permissions, and its owner where the system allows that. A symbolic link stays, and the
    file that it points to is replaced.

    Args:
        path: of the file.
        content: to be written.

    Raises:
        QatError: with the path and the system's reason, as a full disk; the old file stays.
    """
    path = Path(path)
    target = _target(path)
    settle(path)
    try:
        with Draft(target, content) as draft:
            draft.put()
        sync_folders([target])
    except OSError as error:
        raise _not_written(path, error, [path]) from None
    _note([path])


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Replace several files as a whole: ``read_together`` finds all old or all new ones.

    All contents are first written to a record beside them, ``.<name>.pending``, which appears at once; then the files
    are replaced and the record is removed. If the process is killed before the record exists, the old files are
    untouched; if later, the next call that reads or writes one of these files completes the work (``settle``).

    Args:
        contents: by path; all in one folder, with one name but for the suffix.

    Raises:
        QatError: as ``write_atomically``, and where another process keeps the folder locked.
    """
    paths = list(contents)
    if len(paths) == 1:
        write_atomically(paths[0], contents[paths[0]])
        return
    first, folder, record = paths[0], paths[0].parent, _record(paths[0])
    if any(_record(path) != record for path in paths):
        raise ValueError(
            f"{paths}: they have no common record; give files of one folder and one name but for the suffix"
        )
    targets = {path: _target(path) for path in paths}
    recorded = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as held, contextlib.ExitStack() as stack:
            if not held:
                raise QatError(
                    f"{first}: cannot be written, since another process keeps {folder} locked, perhaps an export that was "
                    f"stopped; continue or end it ('fuser {folder}' shows which), then repeat the command"
                )
            _settle(first)
            # Everything that needs space is written before the first file is replaced.
            drafts = [stack.enter_context(Draft(targets[path], content)) for path, content in contents.items()]
            stack.enter_context(Draft(record, _recorded(contents))).put()
            recorded, replaced = True, False
            try:
                sync_folders([record])
                for draft in drafts:
                    draft.put()
                    replaced = True
                sync_folders(targets.values())
            except OSError:
                if not replaced:  # while the lock is held: afterwards it could be another writer's record
                    with contextlib.suppress(OSError):
                        record.unlink()
                        recorded = False
                raise
            with contextlib.suppress(OSError):  # its content is in the files now
                record.unlink()
    except OSError as error:
        if not recorded:
            raise _not_written(first, error, paths) from None
        raise QatError(
            f"{first}: not all of {', '.join(path.name for path in paths)} could be replaced ({error.strerror or error}); the "
            f"rest is kept in {record}, and the next command that reads or writes them puts it in place"
        ) from None
    _note(paths)


def read_together(*paths: Path) -> list[bytes]:
    """Read files that ``write_together`` wrote, all from the same call.

    While another process keeps the folder locked, they are read all the same; if that process is writing, they may come
    from two calls.

    Args:
        *paths: of the files.

    Returns:
        Their contents.

    Raises:
        OSError: where a file cannot be read.
    """
    with locked(paths[0].parent) as held:
        if held:
            with contextlib.suppress(OSError, QatError):  # a read-only folder
                _settle(paths[0])
        pending = _pending(paths[0]) or {}  # what could not be written to the files
        return [pending[path] if path in pending else _content(path) for path in paths]


def settle(path: str | Path) -> None:
    """Complete what a killed ``write_together`` has begun with ``path`` and others. Where that is not possible, all
    stays as it is.
    """
    path = Path(path)
    with contextlib.suppress(OSError, ValueError, QatError):  # ValueError: a name that no file can have
        if _is_record(_record(path)):
            with locked(path.parent) as held:
                if held:
                    _settle(path)


def open_file(path: str | Path) -> IO[bytes]:
    """Open a file for reading.

    Its type is checked after it was opened, so that nothing can take its place in between; a pipe without a writer is
    not waited for.

    Args:
        path: of the file.

    Returns:
        The open file.

    Raises:
        OSError: where it cannot be opened, and for a folder, a pipe or a device.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    other = _no_file(os.fstat(handle).st_mode)
    if other:
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {other}", str(path))
    return os.fdopen(handle, "rb")


# -- one file ---------------------------------------------------------------------------------------------------------


def sha256_of(path: str | Path) -> str:
    """The hexadecimal digits of a file's SHA-256, read piece by piece.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be opened or read.
    """
    digest = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def absolute(path: str | Path) -> str:
    """The one absolute spelling of a path: without . and .., unless a symbolic link gives .. another meaning.

    Args:
        path: of a file or folder, which need not be there; a link in it stays. A name that no file can have stays as it is.

    >>> from pathlib import Path
    >>> from qat.files import absolute
    >>> absolute("data/../data/") == absolute("./data") == absolute(Path("data").absolute())
    True
    """
    found = os.path.abspath(path)
    try:
        same = os.path.realpath(found) == os.path.realpath(path)
    except ValueError:  # a NUL in it, which whoever opens it reports
        return str(path)
    return found if same else str(Path(path).absolute())


def _target(path: Path) -> Path:
    """The file that writing ``path`` replaces: where a symbolic link ends.

    Raises QatError where that is not a file but a folder or a device, as /dev/null, and for a name with control characters,
    which would break lists of files.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in str(path)):
        raise QatError(f"{path}: its name holds a line break or another control character; choose another name")
    link = os.path.islink(path)
    try:
        other = _no_file(os.stat(path).st_mode)
    except FileNotFoundError:  # it does not exist yet, or the link's target does not
        other = ""
    except OSError as error:
        if not link:  # the writing itself reports it
            return path
        # A loop, or another user's link in a shared folder, which the system does not follow.
        raise QatError(
            f"{path}: is a symbolic link that is not followed ({error.strerror}); remove it, or give another name to write"
        ) from None
    if other:
        raise QatError(f"{path}: is {other}, which is not overwritten; give the name of a file to write")
    return Path(os.path.realpath(path)) if link else path


def _no_file(mode: int) -> str:
    """What it is instead of a file, in words; empty for a file."""
    if stat.S_ISREG(mode):
        return ""
    return "a folder" if stat.S_ISDIR(mode) else "not a file but a device or a pipe"


def _content(path: Path) -> bytes:
    """The content of a file of at most ``LARGEST`` bytes. Raises OSError as ``open_file``, and for a larger one."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST:
            raise OSError(errno.EFBIG, f"it holds {size:,} bytes, but at most {LARGEST:,} are read", str(path))
        try:
            return file.read(size)
        except MemoryError:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from None


def _not_written(path: Path, error: OSError, paths: Sequence[Path]) -> QatError:
    """The error where nothing was replaced, so that the old files are unchanged."""
    there = sum(os.path.isfile(path) for path in paths)
    kept = "; the file that was there is unharmed" if there else ""
    if len(paths) > 1 and there:
        kept = f"; {', '.join(path.name for path in paths)} are as they were"
    return QatError(
        f"{path}: cannot be written ({error.strerror or error}){kept}; free some space or choose another place"
    )


# -- several files ----------------------------------------------------------------------------------------------------


def _record(path: Path) -> Path:
    """The path of the record of ``write_together``, which follows from each of its files."""
    return path.parent / f".{path.stem}.pending"


def _is_record(record: Path) -> bool:
    """Whether a record can be trusted: its owner could have replaced the files themselves. In a shared folder, as /tmp, users
    can remove and rename their own files only.
    """
    try:
        found, folder = os.lstat(record), os.stat(record.parent)
    except OSError:
        return False
    mine = not folder.st_mode & stat.S_ISVTX or found.st_uid in (os.geteuid(), folder.st_uid)
    return stat.S_ISREG(found.st_mode) and mine


def _recorded(contents: Mapping[Path, bytes]) -> bytes:
    """The content of a record: a line with the digest of the rest; a line of JSON with the digest of the old content and the
    size of the new one for each file; the new contents. Raises OSError where that is more than ``_content`` reads.
    """
    entries = {path.name: (_digest_of(path), len(content)) for path, content in contents.items()}
    body = b"".join([json.dumps(entries).encode(), b"\n", *contents.values()])
    record = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    if len(record) > LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return record


def _digest_of(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except FileNotFoundError:
        return None


def _pending(path: Path) -> dict[Path, bytes] | None:
    """What a killed ``write_together`` was writing to ``path`` and others; None where there is no record, or where one of the
    files was changed since: it has neither the old nor the new content.
    """
    record = _record(path)
    if not _is_record(record):
        return None
    try:
        digest, _, body = _content(record).partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return None
        line, _, body = body.partition(b"\n")
        contents, start = {}, 0
        for name, (before, size) in json.loads(line).items():
            file = record.with_name(name)  # raises ValueError for one of another folder
            contents[file] = content = body[start : start + size]
            start += size
            if _record(file) != record or _digest_of(file) not in (before, hashlib.sha256(content).hexdigest()):
                return None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return contents


def _settle(path: Path) -> None:
    """``settle`` for a caller that holds the lock. Raises OSError where a file cannot be written."""
    record = _record(path)
    if not _is_record(record):
        return
    targets = {_target(file): content for file, content in (_pending(path) or {}).items()}
    for target, content in targets.items():
        with Draft(target, content) as draft:
            draft.put()
    sync_folders(targets)
    record.unlink()
