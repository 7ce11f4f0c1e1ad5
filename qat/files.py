"""Writing files so that nothing is ever half written."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import time
import unicodedata
from pathlib import Path

from qat.errors import QatError

ABANDONED = 600.0  #: seconds after which a temporary file is that of a process that was killed


def check_writable(path: str | Path) -> None:
    """Raise QatError where a file cannot be written, before hours of work are spent on its content."""
    path = Path(path)
    _check_replaceable(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise QatError(
            f"{path}: cannot be written in {folder} ({error.strerror or error}); choose another place"
        ) from None


def _check_replaceable(path: Path) -> None:
    """Raise QatError where something else than a file is there: a folder, or a device as /dev/null; and for a name that
    nobody would have typed, whose line breaks would come into every list of files.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in str(path)):
        raise QatError(f"{path}: its name holds a line break or another control character; choose another name")
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "no file but a device or a pipe"
        raise QatError(f"{path}: is {what}, which is not written over; give the name of a file to write")


def check_distinct(output: str | Path, source: str | Path, flags: str) -> None:
    """Raise QatError where a command would write over what it reads. flags: which two arguments name them."""
    if os.path.realpath(output) == os.path.realpath(source):
        raise QatError(f"{output}: {flags} name the same file, which would be overwritten; give another name to write")


def write_atomically(path: str | Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` as a whole: a crash leaves the old file or the new one.

    Raises QatError naming the path and the system's reason (a full disk, a read-only folder); the old file stays.
    """
    path = Path(path)
    _check_replaceable(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only the owner can read
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        kept = "; the file that was there is unharmed" if os.path.isfile(path) else ""
        raise QatError(
            f"{path}: cannot be written ({error.strerror or error}){kept}; free some space or choose another place"
        ) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _clear_abandoned(path: Path) -> None:
    """Remove what a process that was killed while it wrote ``path`` has left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink()
