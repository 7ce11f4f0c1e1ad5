"""What commands print: log lines, a progress bar on a terminal, tables. Names and paths are printed without effect on
the terminal.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from qat.errors import one_line

T = TypeVar("T")
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
    """A stream that escapes control characters line by line, and characters that its encoding does not have.

    ``make_console`` alone writes to the stream behind it, to which it sends styles.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: TextIO | LastingOutput) -> None:
        self.behind = stream
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write the escaped text."""
        return self.behind.write("\n".join(one_line(line.expandtabs()) for line in text.split("\n")))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def make_console() -> Console:
    """A console on standard output; plain text without styles or wrapping where that is no terminal, or a dumb one.

    Text from elsewhere, as names and paths, has to be given to it through ``shown``.
    """
    file = getattr(sys.stdout, "behind", None)
    console = Console(highlight=False, file=file, force_jupyter=False)
    if console.is_terminal and not console.is_dumb_terminal and not in_notebook(console.file):  # (which says it is one)
        return console
    return Console(highlight=False, file=file, width=200, color_system=None, force_terminal=False, force_jupyter=False)


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

    def watched(self, parts: Iterable[T], total: int, size: Callable[[T], int], name: str) -> Iterator[T]:
        """The same parts, while it is shown how many are done.

        Args:
            parts: what is worked on, part by part.
            total: samples in all parts.
            size: samples in a part.
            name: what computes, for the line.

        Yields:
            The parts.
        """
        console, start, done = make_console(), self._clock(), 0
        drawn = bar_console(console)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=drawn or console,
            transient=True,
        )
        task = bar.add_task(one_line(name).replace("[", r"\["), total=total, rate="")
        try:
            for part in parts:
                yield part
                done += size(part)
                now = self._clock()
                rate = f"{done / max(now - start, 1e-9):,.0f} samples/s"
                if drawn is not None:
                    if now - start >= BAR_AFTER:
                        bar.start()
                    bar.update(task, completed=done, rate=rate)
                elif now - self._last >= SILENCE:
                    console.print(shown(f"{name}: {done:,} of {total:,} samples, {rate}"), soft_wrap=True)
                    self._last = now
        finally:
            if bar.live.is_started:  # (it would print an empty line)
                bar.stop()


def shown(text: str, style: str = "") -> Text:
    """A text on one line for a console: brackets are not markup, and control characters are escaped."""
    return Text(one_line(text), style=style)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table below its title; all columns but the first are aligned to the right.

    Nothing is cut off: where the terminal is narrow the headings are broken at spaces, and lines may wrap.

    Args:
        title: above the table.
        columns: the headings.
        rows: a text for each column.
    """
    rows = [*rows]
    console = make_console()
    table = _table(columns, rows)
    if _width(console, table) > console.width:
        table = _table([column.replace(" ", "\n") for column in columns], rows)
        console.width = max(console.width, _width(console, table))
    console.print(shown(title, "bold"), soft_wrap=True)  # a table's own title would wrap at its width
    console.print(table)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(shown, row))
    return table


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(max_width=1000)).maximum
