"""What commands print, in one place: results, given once as data and printed as tables and lines or as one JSON document; log
lines and bars of progress; notes. Lines fit the width, and names and paths are printed without effect on the terminal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from qat.errors import one_line
from qat.tables import Column, count, folded, named, percent, tables

__all__ = ["Column", "count", "percent"]

T = TypeVar("T")
WIDTH = 80  #: columns of what is no terminal, where COLUMNS does not say otherwise
SILENCE = 10.0  #: seconds without a line after which long work says how far it is, off a terminal
BAR_AFTER = 1.0  #: seconds after which long work has a bar on a terminal


class LastingOutput:
    """A stream that never fails: after the first write that does (a full disk, a closed pipe) further output is
    dropped, so that no work is lost because of it.

    Args:
        stream: to write to.

    Attributes:
        lost: the exception of that write; None as long as all were written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write to the stream, if it still works."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it still works."""
        self._try(self._stream.flush)

    def _try(self, act: Callable[[], Any]) -> None:
        if self.lost is None:
            try:
                act()
            except OSError as error:
                self.lost = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainOutput:
    """A stream that escapes control characters line by line, and characters that its encoding does not have, and that breaks
    lines at spaces where they are wider than the output. A word that is wider, as a path, has a line of its own.

    ``make_console`` alone writes to the stream behind it, to which it sends styles.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: TextIO | LastingOutput) -> None:
        self.behind = stream
        self._begun = ""  # of a line whose end is still to come
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write the escaped text, as far as its lines are whole."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self.behind.write(folded(one_line(line.expandtabs()), width(self.behind)) + "\n")
        return len(text)

    def flush(self) -> None:
        """Write the beginning of a line, too."""
        begun, self._begun = self._begun, ""
        if begun:
            self.behind.write(one_line(begun.expandtabs()))
        self.behind.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def width(stream: Any = None) -> int:
    """How many columns what is printed may take: COLUMNS, else the terminal's, else ``WIDTH``."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size((sys.stdout if stream is None else stream).fileno()).columns or WIDTH
    except (AttributeError, OSError, ValueError):
        return WIDTH


def make_console(stream: Any = None) -> Console:
    """A console on a stream, by default standard output; plain text without styles where that is no terminal, or a dumb one,
    or where NO_COLOR is set.

    Text from elsewhere, as names and paths, has to be given to it through ``shown``.
    """
    stream = sys.stdout if stream is None else stream
    file = getattr(stream, "behind", stream)
    plain = bool(os.environ.get("NO_COLOR"))
    settings: dict[str, Any] = {"highlight": False, "file": file, "width": width(file), "force_jupyter": False}
    console = Console(color_system=None if plain else "auto", **settings)
    if console.is_terminal and not console.is_dumb_terminal and not in_notebook(console.file):  # (which says it is one)
        return console
    return Console(color_system=None, force_terminal=False, **settings)


def bar_console(console: Console) -> Console | None:
    """Where a bar is drawn beside the lines of a console.

    Args:
        console: of ``make_console``.

    Returns:
        The console itself on a terminal; in a notebook, where ipywidgets is installed, one that draws in the cell's output;
        else None, also in the cells ``%%sh`` of a notebook, a pipe that its FORCE_COLOR makes a terminal.
    """
    if console.is_terminal and (console.file.isatty() or "JPY_PARENT_PID" not in os.environ):
        return console
    if in_notebook(sys.stdout) and has_widgets():
        return Console(highlight=False, force_jupyter=True)
    return None


def has_widgets() -> bool:
    """Whether ipywidgets is installed, with which rich draws in notebooks."""
    return importlib.util.find_spec("ipywidgets") is not None


def in_notebook(stream: Any) -> bool:
    """Whether what is printed to a stream is shown in the output of a notebook's cell."""
    return type(stream).__module__.startswith("ipykernel.")


class Report:
    """Where the results of a command go: they are printed, or kept for one JSON document.

    Args:
        as_json: whether nothing but the document is printed.
        stream: where results go; None: where everything else goes, standard output.
    """

    def __init__(self, as_json: bool = False, stream: Any = None) -> None:
        self.as_json, self._stream = as_json, stream
        self.data: dict[str, Any] = {}

    @property
    def stream(self) -> Any:
        """Where results are printed."""
        return sys.stdout if self._stream is None else self._stream

    def add(self, data: Mapping[str, Any]) -> None:
        """Keep results for the document: of a list or a mapping that is there already, more."""
        if self.as_json:
            _join(self.data, data)

    def document(self, **more: Any) -> str:
        """All results as JSON. more: what comes before them."""
        return json.dumps(_plain(more | self.data), indent=2, ensure_ascii=False, allow_nan=False)


def _join(into: dict[str, Any], data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        known = into.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            _join(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            known.extend(value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """As JSON has it: NumPy's numbers as Python's, paths as text, numbers that JSON lacks as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(x) for x in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


_PRINTED = Report()  # of whoever calls functions of commands otherwise
_REPORT: ContextVar[Report] = ContextVar("report", default=_PRINTED)


@contextlib.contextmanager
def reporting(report: Report) -> Iterator[Report]:
    """Within, results go to this report."""
    token = _REPORT.set(report)
    try:
        yield report
    finally:
        _REPORT.reset(token)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Within, nothing is printed but notes, and no result is kept."""
    with reporting(Report()), contextlib.redirect_stdout(io.StringIO()):
        yield


def result(text: str = "", **data: Any) -> None:
    """A result of the command.

    Args:
        text: how it is printed, in one or several lines; "": it is in the document alone.
        data: what it is in the JSON document, by key.
    """
    report = _REPORT.get()
    report.add(data)
    if text and not report.as_json:
        print(text, file=report.stream)


def print_whole(text: str, end: str = "\n") -> None:
    """Print a text for another program, as a script or Markdown, whose lines are not broken; with --json it is a result's."""
    report = _REPORT.get()
    if not report.as_json:
        report.stream.flush()
        whole = "\n".join(map(one_line, text.split("\n")))
        getattr(report.stream, "behind", report.stream).write(whole + end)


def wrote(path: Any, words: str = "saved", more: str = "", **data: Any) -> None:
    """A file that was written, as "saved lenet.ckpt": a result.

    Args:
        path: its name.
        words: before it.
        more: behind it.
        data: of it, for the JSON document.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else None
    result(f"{words} {path}{more}", files=[{"path": str(path), "bytes": size} | data])


def note(text: str) -> None:
    """What the user should know of, as "note: ..." on standard error, also where results alone are printed."""
    _REPORT.get().add({"notes": [text]})
    print(folded(one_line(f"note: {text}"), width(sys.stderr)), file=sys.stderr, flush=True)


class Bar(Progress):
    """A bar of progress below the lines that a console prints; none where it cannot be drawn.

    In a notebook the thread that reports progress draws it, too: while rich's own thread draws there, what another prints goes
    into the bar's output, and is gone with it.

    Args:
        console: of ``make_console``, which prints the lines.
        clock: gives seconds.
    """

    REDRAWN = 0.25  #: seconds between two drawings in a notebook

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        drawn = bar_console(console)
        self._by_hand, self._drawn_at = drawn is not None and drawn.is_jupyter, clock()
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=drawn or console,
            get_time=clock,
            transient=True,
            auto_refresh=not self._by_hand,
            disable=drawn is None,
        )

    def show(self, task: TaskID, **values: Any) -> None:
        """As ``update``, and drawn in a notebook where it is time."""
        due = self._by_hand and self.get_time() - self._drawn_at >= self.REDRAWN
        if due:
            self._drawn_at = self.get_time()
        self.update(task, refresh=due, **values)


class Pulse:
    """How far long work is that prints nothing itself: a bar on a terminal or in a notebook, else a line each ``SILENCE``
    seconds.

    Args:
        clock: gives seconds; tests have one of their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._last = clock, clock()

    def printed(self) -> None:
        """Something else has been printed just now."""
        self._last = self._clock()

    def watched(
        self, parts: Iterable[T], total: int, size: Callable[[T], int], name: str, unit: str = "samples"
    ) -> Iterator[T]:
        """The same parts, while it is shown how many are done.

        Args:
            parts: what is worked on, part by part.
            total: samples in all parts, or what else they consist of.
            size: samples in a part.
            name: what computes, for the line.
            unit: what is counted.

        Yields:
            The parts.
        """
        console, start, done = make_console(), self._clock(), 0
        bar = Bar(console)
        task = bar.add_task(one_line(name).replace("[", r"\["), total=total, rate="")
        try:
            for part in parts:
                yield part
                done += size(part)
                now = self._clock()
                rate = f"{_rate(done / max(now - start, 1e-9))} {unit}/s"
                if not bar.disable:
                    if now - start >= BAR_AFTER:
                        bar.start()
                    bar.show(task, completed=done, rate=rate)
                elif now - self._last >= SILENCE:
                    print_line(console, f"{name}: {done:,} of {total:,} {unit}, {rate}")
                    self._last = now
        finally:
            if bar.live.is_started:  # (it would print an empty line)
                bar.stop()


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:.2g}"


def shown(text: str, style: str = "") -> Text:
    """A text on one line for a console: brackets are not markup, and control characters are escaped."""
    return Text(one_line(text), style=style)


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line in the width of the console, broken at spaces where it is wider."""
    console.print(Text(folded(one_line(text), console.width), style=style), soft_wrap=True)


def print_table(
    title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[Any]], key: str | None = "tables"
) -> None:
    """Give a table of results, printed below its title; all columns but the first are aligned to the right.

    No text is cut off. Where the output is narrow, columns in which no row says anything are left out, headings are broken at
    spaces, then texts, spaces take the place of the lines between columns, and what still does not fit follows in a further
    table with the same first column.

    Args:
        title: above the table.
        columns: the headings, or more of each column.
        rows: a value for each column.
        key: of the rows in the JSON document, a list of objects with the columns' keys. "tables" is a list of tables, with
            their titles, for those that have no key of their own; None: what it shows is in the document already.
    """
    rows, known = [*rows], [x if isinstance(x, Column) else Column(x) for x in columns]
    report = _REPORT.get()
    if report.as_json:
        kept = named(known, rows)
        if key is not None:
            report.add({key: [{"title": title, "rows": kept}] if key == "tables" else kept})
        return
    report.stream.flush()
    console = make_console(report.stream)
    print_line(console, title, "bold")
    cells = [[one_line(column.text(value)) for column, value in zip(known, row, strict=True)] for row in rows]
    for table in tables(known, cells, console.width):
        console.print(table)
