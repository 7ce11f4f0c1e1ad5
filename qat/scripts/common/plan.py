"""--dry_run and --yes: what a command would do, and whether it may replace a file that is there."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from qat.cli import Planned
from qat.console import result
from qat.data import Dataset
from qat.deploy.interfaces import MakesArduinoLibrary, RecordsMetadata, Target, WritesSeveral
from qat.errors import QatError
from qat.files import check_writable
from qat.graph import Graph
from qat.registry import suffixed, target_of
from qat.run_file import digest
from qat.tables import counted
from qat.training.checkpoint import Checkpoint

REPORTS = (".csv", ".txt", ".yaml", ".yml", ".json", ".png", ".svg", ".html")  #: which are replaced without a question

#: Digests by real path of what earlier runs of the same steps wrote: as long as it is that, it may be replaced.
RECORDED: ContextVar[Mapping[str, str] | None] = ContextVar("recorded", default=None)


def add_writing_arguments(parser: argparse.ArgumentParser, *, replaces: bool = True) -> None:
    """--dry_run, and --yes where the command may replace a file of the user's."""
    group = parser.add_argument_group("files that are written")
    group.add_argument(
        "--dry_run", action="store_true", help="check everything, print what would be read, done and written, and stop"
    )
    if replaces:
        group.add_argument("--yes", action="store_true", help="also replace a file that qat did not write")


def is_own(path: Path) -> bool:
    """Whether qat wrote a checkpoint, an exported file or a report.

    A checkpoint is read. Of an exported file the metadata tell, which every command that exports gives it; the word qat alone
    may stand in anybody's. The file of a target that records none is not known.
    """
    if path.suffix.lower() in REPORTS:
        return True
    try:
        if suffixed(path) is None:
            Checkpoint.load(path)
            return True
        target = target_of(str(path))
        return isinstance(target, RecordsMetadata) and bool(target.read_metadata(path))
    except QatError:
        return False


def never_own(path: Path) -> bool:
    """For files of which nothing says that qat wrote them: each that is there is the user's own."""
    return False


def check_outputs(args: argparse.Namespace, *paths: str | Path, own: Callable[[Path], bool] = is_own) -> None:
    """Check that files can be written, and that none of the user's own is replaced without being asked for.

    Args:
        args: with those of ``add_writing_arguments``.
        paths: of the files.
        own: tells those that qat wrote.

    Raises:
        QatError: where one cannot be written, or is another's and may not be replaced.
    """
    for path in map(Path, paths):
        if getattr(args, "dry_run", False):
            _check_place(path)
        else:
            check_writable(path)
        if (
            getattr(args, "yes", False)
            or not path.is_file()
            or not path.stat().st_size
            or _is_recorded(path)
            or _told(own, path)
        ):
            continue
        text = f"{path}: is there already" + ("" if own is never_own else ", and is not what qat wrote")
        if getattr(args, "dry_run", False) or not _agreed(f"{text}; replace it? [y/N] "):
            raise QatError(f"{text}, and would be lost; give --yes to replace it, or another name")


def _told(own: Callable[[Path], bool], path: Path) -> bool:
    """Whether ``own`` tells a file as qat's; one that cannot be read is not."""
    try:
        return own(path)
    except OSError:
        return False


def check_exported(
    args: argparse.Namespace, target: Target, path: Path, arduino: str | None = None, **options: str
) -> None:
    """``check_outputs`` of all files that an export writes.

    Args:
        args: with those of ``add_writing_arguments``.
        target: of the file.
        path: the file.
        arduino: the folder of the library for Arduino that is written, too; None where there is none.
        options: of the export.

    Raises:
        QatError: as ``check_outputs``.
    """
    paths = target.files(path, **options) if isinstance(target, WritesSeveral) else [path]
    if arduino and isinstance(target, MakesArduinoLibrary):
        paths += target.library_files(path, arduino)
    check_outputs(args, *paths, own=target.wrote if isinstance(target, WritesSeveral) else is_own)


def _is_recorded(path: Path) -> bool:
    """Whether it is still what an earlier run of the same steps wrote."""
    known = (RECORDED.get() or {}).get(os.path.realpath(path))
    return known is not None and digest(path) == known


def _check_place(path: Path) -> None:
    """Raise QatError where a file could not be written. Nothing is made for it."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise QatError(f"{path}: cannot be written in {path.parent}; choose another place")


def _agreed(question: str) -> bool:
    """Whether the user says yes; no where nobody is at a terminal."""
    if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def stop_if_dry(
    args: argparse.Namespace,
    does: str,
    *,
    reads: Sequence[tuple[object, str]] = (),
    writes: Sequence[str | Path] = (),
) -> None:
    """Where --dry_run is given, print what would be done, and end the command.

    Args:
        args: with those of ``add_writing_arguments``.
        does: what would be done, as "train 10 epochs".
        reads: what would be read and what it is.
        writes: the files that would be written.
    """
    if not getattr(args, "dry_run", False):
        return
    for source, what in reads:
        result(f"would read {source}: {what}", reads=[{"path": str(source), "what": what}])
    result(f"would {does}", does=does)
    for path in map(Path, writes):
        there = path.exists()
        words = ", in place of what is there" if there else ""
        result(f"would write {path}{words}", writes=[{"path": str(path), "replaces": there}])
    result("nothing was done (--dry_run)", dry_run=True)
    raise Planned


def of_graph(graph: Graph) -> str:
    """A network in words."""
    kind = "quantized" if graph.is_quantized else "float"
    return f"{graph.name}, {kind}, {counted(graph.count_trainable(), 'trainable parameter')}"


def of_data(dataset: Dataset) -> str:
    """A data set in words."""
    return f"{dataset.name}, {len(dataset.train):,} training and {counted(len(dataset.test), 'test sample')}"
